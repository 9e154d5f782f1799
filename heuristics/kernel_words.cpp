#include "heuristics/kernel_words.h"

#include <algorithm>
#include <cstdlib>
#include <string_view>

namespace kvshim::heuristics {
namespace {

constexpr std::size_t kWordBytes = 8;

bool contains(const std::vector<std::size_t>& list, std::size_t value) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

// 8-byte numbers that are surely no addresses. An integer may be one: code that
// passes pointers as integers exists.
bool is_never_an_address(std::string_view type) {
  return type == "double" || type == "float2" || type == "float4" ||
         type.starts_with("c10::complex<");
}

class WordFinder {
 public:
  WordFinder(const KernelName& name, std::span<const ParamLayout> params,
             std::span<const TypeLayout* const> layouts, const KernelEntry* entry)
      : name_(name), params_(params), layouts_(layouts), entry_(entry) {
    trusted_ = types_fit(name, params);
  }

  KernelWords find() {
    for (std::size_t i = 0; i < params_.size(); ++i) {
      if (params_[i].size < kWordBytes || by_entry(i)) continue;
      if (trusted_) {
        by_type(i, (*name_.parameters)[i]);
      } else {
        every_word(i);
      }
    }
    if (!name_.parameters) {
      result_.note = "its name carries no parameter types: every word may be a pointer";
    } else if (!trusted_) {
      result_.note = "its parameter types don't fit the sizes: every word may be a pointer";
    } else if (!unknown_type_.empty()) {
      result_.note = "every word of " + unknown_type_.substr(0, 80) + " may be a pointer";
    } else {
      result_.note = "pointers known by type" + (used_.empty() ? "" : " (" + used_ + ")");
    }
    return std::move(result_);
  }

 private:
  void add(std::size_t param, std::size_t offset, bool read_only) {
    if (offset + kWordBytes > params_[param].size) return;
    result_.words.push_back(
        {static_cast<std::uint16_t>(param), static_cast<std::uint16_t>(offset)});
    result_.read_only.push_back(read_only);
  }
  void every_word(std::size_t param) {
    for (std::size_t at = 0; at + kWordBytes <= params_[param].size; at += kWordBytes) {
      add(param, at, false);
    }
  }
  // What the matching entry says about parameter `i`; false: nothing.
  bool by_entry(std::size_t i) {
    if (entry_ == nullptr || !entry_->parameters) return false;
    if (std::find(entry_->parameters_with_words.begin(), entry_->parameters_with_words.end(),
                  static_cast<std::uint32_t>(i)) != entry_->parameters_with_words.end()) {
      for (const KernelEntry::Word& word : entry_->words) {
        if (word.place.param == i) add(i, word.place.offset, word.read_only);
      }
      return true;
    }
    switch ((*entry_->parameters)[i].kind) {
      case ParameterSpec::Kind::kPointer:
        add(i, 0, false);
        return true;
      case ParameterSpec::Kind::kConstPointer:
        add(i, 0, true);
        return true;
      case ParameterSpec::Kind::kInteger:
      case ParameterSpec::Kind::kElement:
        return true;
      case ParameterSpec::Kind::kOther:
        return false;
    }
    return false;
  }
  void by_type(std::size_t i, const std::string& type) {
    if (is_pointer_type(type)) return add(i, 0, points_to_const(type));
    if (is_never_an_address(type)) return;
    for (const TypeLayout* layout : layouts_) {
      if (layout->type.found_in(type) && by_layout(i, type, *layout)) return;
    }
    if (!known_type_size(type)) unknown_type_ = type;
    every_word(i);
  }
  bool by_layout(std::size_t i, const std::string& type, const TypeLayout& layout) {
    const std::size_t size = params_[i].size;
    if (!layout.sizes.empty() && !contains(layout.sizes, size)) return false;
    const std::vector<std::string> arguments = template_arguments_of(type);
    bool all_read_only = layout.read_only;
    if (!layout.const_path.empty()) {
      const std::string argument = template_argument_at(arguments, layout.const_path);
      all_read_only = argument.ends_with(" const") || argument.starts_with("const ");
    }
    if (!layout.count_path.empty()) {
      // Demangled numbers carry their suffix: "3ul".
      const std::string argument = template_argument_at(arguments, layout.count_path);
      const std::size_t count = std::strtoul(argument.c_str(), nullptr, 10);
      if (count == 0 || count > size / kWordBytes) return false;
      for (std::size_t word = 0; word < count; ++word) add(i, word * kWordBytes, all_read_only);
    }
    for (const std::size_t word : layout.words) {
      add(i, word, all_read_only || contains(layout.read_only_words, word));
    }
    for (const std::size_t back : layout.words_from_end) {
      if (back > size) return false;
      add(i, size - back, all_read_only || contains(layout.read_only_words_from_end, back));
    }
    if (layout.live_grid_dimension) {
      result_.live_limits.push_back({static_cast<std::uint16_t>(i), *layout.live_grid_dimension});
    }
    if (used_.find(layout.label) == std::string::npos) {
      used_ += (used_.empty() ? "" : ", ") + layout.label;
    }
    return true;
  }

  const KernelName& name_;
  std::span<const ParamLayout> params_;
  std::span<const TypeLayout* const> layouts_;
  const KernelEntry* entry_;
  bool trusted_ = false;
  KernelWords result_;
  std::string unknown_type_, used_;
};

}  // namespace

bool types_fit(const KernelName& name, std::span<const ParamLayout> params) {
  if (!name.parameters || name.parameters->size() != params.size()) return false;
  for (std::size_t i = 0; i < params.size(); ++i) {
    const auto size = known_type_size((*name.parameters)[i]);
    if (size && *size != params[i].size) return false;
  }
  return true;
}

KernelWords find_words(const KernelName& name, std::span<const ParamLayout> params,
                       std::span<const TypeLayout* const> layouts, const KernelEntry* entry) {
  return WordFinder(name, params, layouts, entry).find();
}

}  // namespace kvshim::heuristics
