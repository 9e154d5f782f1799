#include "heuristics/kernel_catalog.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "heuristics/kernel_name.h"
#include "heuristics/kernel_words.h"
#include "heuristics/profile_data.h"

namespace kvshim::heuristics {
namespace {

constexpr std::int64_t kMaxSlots = std::int64_t{1} << 31;
// More rows or ids in a row than any table has: the values are no table's.
constexpr std::int64_t kMaxRows = std::int64_t{1} << 16;
constexpr std::int64_t kMaxEntries = std::int64_t{1} << 24;

class ClassifiedKernel : public KernelKnowledge {
 public:
  /// `entry` and `table` may be null; they belong to the profiles.
  ClassifiedKernel(const KernelEntry* entry, std::span<const ParamLayout> params,
                   std::optional<std::size_t> element, KernelWords found,
                   const TableForm* table = nullptr, std::size_t table_element = 0)
      : entry_(entry),
        element_(element),
        live_limits_(std::move(found.live_limits)),
        table_(table),
        table_element_(table_element) {
    has_table = table != nullptr;
    words = std::move(found.words);
    word_is_read_only = std::move(found.read_only);
    sizes_.reserve(params.size());
    for (const ParamLayout& param : params) sizes_.push_back(param.size);
  }

  bool word_is_live(WordPlace place, const LaunchValues& values) const override {
    for (const KernelWords::LiveLimit& limit : live_limits_) {
      if (limit.param != place.param) continue;
      return place.offset / 8 < values.grid[static_cast<std::size_t>(limit.grid_dimension)];
    }
    return true;
  }

  std::optional<WriterCall> writer_call(const LaunchValues& values) const override {
    if (entry_ == nullptr || values.params.size() < sizes_.size()) return std::nullopt;
    for (const WriterForm& form : entry_->writers) {
      if (std::optional<WriterCall> call = call_of(form, values)) return call;
    }
    return std::nullopt;
  }

  std::optional<FillCall> fill_call(const LaunchValues& values) const override {
    if (entry_ == nullptr || !entry_->fill || values.params.size() < sizes_.size()) {
      return std::nullopt;
    }
    const FillForm& form = *entry_->fill;
    const auto target = address(form.address, values);
    const auto bytes = evaluate(form.bytes, values);
    const auto* value = static_cast<const unsigned char*>(values.params[form.value]);
    if (!target || !bytes || *bytes < 0 || value == nullptr) return std::nullopt;
    FillCall call;
    call.address = *target;
    call.bytes = static_cast<std::uint64_t>(*bytes);
    call.zero = std::all_of(value, value + sizes_[form.value],
                            [](unsigned char byte) { return byte == 0; });
    return call;
  }

  std::optional<TableCall> table_call(const LaunchValues& values) const override {
    if (table_ == nullptr || values.params.size() < sizes_.size()) return std::nullopt;
    const TableForm& form = *table_;
    const auto value = [&](const Expression& expression) {
      return expression.evaluate([&](std::uint32_t name) { return table_value(name, values); });
    };
    for (const auto& [left, right] : form.equal) {
      const auto one = value(left);
      if (!one || one != value(right)) return std::nullopt;
    }
    const auto stride = value(form.row_stride), rows = value(form.rows),
               entries = value(form.entries), block = value(form.block);
    if (!stride || *stride < 0 || !rows || *rows < 0 || *rows > kMaxRows || !entries ||
        *entries < 0 || *entries > kMaxEntries || !block || *block < 1) {
      return std::nullopt;
    }
    TableCall call;
    call.row_stride = static_cast<std::uint64_t>(*stride);
    call.rows = static_cast<std::uint64_t>(*rows);
    call.entries = static_cast<std::uint64_t>(*entries);
    call.block = static_cast<std::uint64_t>(*block);
    const auto ids = field(form.fields[form.ids], values);
    if (!ids || *ids == 0) return std::nullopt;
    call.ids = *ids;
    if (form.lengths) {
      const auto lengths = field(form.fields[*form.lengths], values);
      if (!lengths || *lengths == 0) return std::nullopt;
      call.lengths = *lengths;
    }
    for (const TableForm::Part& part : form.parts) {
      const auto base = field(form.fields[part.base], values);
      const auto block_stride = value(part.block_stride), length = value(part.length);
      if (!base || !block_stride || *block_stride < 0 || !length || *length < 0) {
        return std::nullopt;
      }
      call.parts.push_back(
          {*base, static_cast<std::uint64_t>(*block_stride), static_cast<std::uint64_t>(*length)});
    }
    return call;
  }

 private:
  std::optional<WriterCall> call_of(const WriterForm& form, const LaunchValues& values) const {
    std::optional<std::int64_t> element = value_of(ExpressionName::kElement, values);
    if (form.element) {
      element = evaluate(*form.element, values);
      if (!element || *element < 1) return std::nullopt;
    }
    const auto value = [&](const Expression& expression) {
      return expression.evaluate([&](std::uint32_t name) {
        return name == ExpressionName::kElement ? element : value_of(name, values);
      });
    };
    for (const auto& [left, right] : form.equal) {
      const auto one = value(left);
      if (!one || one != value(right)) return std::nullopt;
    }
    const auto slots = address(form.slots, values);
    const auto count = value(form.count), block = value(form.block);
    if (!slots || !count || *count < 0 || *count > kMaxSlots || !block || *block < 1) {
      return std::nullopt;
    }
    WriterCall call;
    call.slots = *slots;
    call.slot_bytes = form.slot_bytes;
    call.count = static_cast<std::uint64_t>(*count);
    call.skip_below = form.skip_below;
    call.block = static_cast<std::uint64_t>(*block);
    call.destinations.reserve(form.destinations.size());
    for (const WriterForm::Destination& destination : form.destinations) {
      const auto base = address(destination.base, values);
      const auto block_stride = value(destination.block_stride);
      const auto slot_stride = value(destination.slot_stride);
      const auto length = value(destination.length);
      if (!base || !block_stride || *block_stride < 0 || !slot_stride || *slot_stride < 0 ||
          !length || *length < 0) {
        return std::nullopt;
      }
      call.destinations.push_back({*base, static_cast<std::uint64_t>(*block_stride),
                                   static_cast<std::uint64_t>(*slot_stride),
                                   static_cast<std::uint64_t>(*length)});
    }
    return call;
  }
  // The bits of a field; signs are the caller's.
  static std::optional<std::uint64_t> field(const TableForm::Field& field,
                                            const LaunchValues& values) {
    const auto* param = static_cast<const unsigned char*>(values.params[field.param]);
    if (param == nullptr) return std::nullopt;
    std::uint64_t raw = 0;  // little-endian hosts only, as CUDA's are
    std::memcpy(&raw, param + field.offset, field.size);
    return raw;
  }
  std::optional<std::int64_t> table_value(std::uint32_t name, const LaunchValues& values) const {
    if (name == ExpressionName::kElement) return static_cast<std::int64_t>(table_element_);
    if (name < ExpressionName::kField) return value_of(name, values);
    const TableForm::Field& named = table_->fields[name - ExpressionName::kField];
    const auto raw = field(named, values);
    if (!raw) return std::nullopt;
    if (named.size == 4 && named.is_signed) return static_cast<std::int32_t>(*raw);
    if (!named.is_signed && *raw > static_cast<std::uint64_t>(INT64_MAX)) return std::nullopt;
    return static_cast<std::int64_t>(*raw);
  }
  std::optional<std::uint64_t> address(std::uint32_t param, const LaunchValues& values) const {
    if (values.params[param] == nullptr) return std::nullopt;
    std::uint64_t word = 0;
    std::memcpy(&word, values.params[param], sizeof word);
    return word;
  }
  std::optional<std::int64_t> evaluate(const Expression& expression,
                                       const LaunchValues& values) const {
    return expression.evaluate([&](std::uint32_t name) { return value_of(name, values); });
  }
  std::optional<std::int64_t> value_of(std::uint32_t name, const LaunchValues& values) const {
    if (name == ExpressionName::kElement) {
      if (!element_) return std::nullopt;
      return static_cast<std::int64_t>(*element_);
    }
    if (name >= ExpressionName::kBlock) return values.block[name - ExpressionName::kBlock];
    if (name >= ExpressionName::kGrid) return values.grid[name - ExpressionName::kGrid];
    const ParameterSpec& spec = (*entry_->parameters)[name];
    if (values.params[name] == nullptr || spec.size > sizeof(std::int64_t)) return std::nullopt;
    std::uint64_t raw = 0;  // little-endian hosts only, as CUDA's are
    std::memcpy(&raw, values.params[name], spec.size);
    if (spec.is_signed && spec.size < sizeof raw) {
      const unsigned unused = 64 - static_cast<unsigned>(spec.size) * 8;
      return static_cast<std::int64_t>(raw << unused) >> unused;
    }
    if (!spec.is_signed && raw > static_cast<std::uint64_t>(INT64_MAX)) return std::nullopt;
    return static_cast<std::int64_t>(raw);
  }

  const KernelEntry* entry_;
  std::optional<std::size_t> element_;
  std::vector<KernelWords::LiveLimit> live_limits_;
  std::vector<std::size_t> sizes_;
  const TableForm* table_;
  std::size_t table_element_;
};

bool is_integer_type(std::string_view type, const ParameterSpec& spec) {
  if (is_pointer_type(type)) return false;
  const auto size = known_type_size(type);
  // An enumeration has no known size: the driver's size has to do.
  if (!size) return true;
  if (*size != spec.size || type == "float" || type == "double") return false;
  if (type == "bool" || type == "char") return true;
  return type.starts_with("unsigned") != spec.is_signed;
}

/// Empty when the entry's parameter list fits, else what doesn't.
std::string misfit(const KernelEntry& entry, const KernelName& name,
                   std::span<const ParamLayout> params, std::optional<std::size_t> element) {
  if (!entry.parameters) return {};
  const std::vector<ParameterSpec>& specs = *entry.parameters;
  if (specs.size() != params.size()) {
    return "it has " + std::to_string(params.size()) + " parameters, not " +
           std::to_string(specs.size());
  }
  if (name.parameters && name.parameters->size() != params.size()) {
    return "its name lists " + std::to_string(name.parameters->size()) + " parameters of " +
           std::to_string(params.size());
  }
  for (std::size_t i = 0; i < specs.size(); ++i) {
    const ParameterSpec& spec = specs[i];
    const bool by_value = spec.kind == ParameterSpec::Kind::kElement;
    bool fits = params[i].size == (by_value ? element.value_or(0) : spec.size);
    if (fits && name.parameters) {
      const std::string& type = (*name.parameters)[i];
      switch (spec.kind) {
        case ParameterSpec::Kind::kPointer:
          fits = is_pointer_type(type) && !points_to_const(type);
          break;
        case ParameterSpec::Kind::kConstPointer:
          fits = points_to_const(type);
          break;
        case ParameterSpec::Kind::kInteger:
          fits = is_integer_type(type, spec);
          break;
        case ParameterSpec::Kind::kElement:
        case ParameterSpec::Kind::kOther:
          fits = !is_pointer_type(type);
          break;
      }
    }
    if (!fits) return "parameter " + std::to_string(i) + " (" + spec.name + ") differs";
  }
  return {};
}

std::string unmet_demand(const std::vector<TemplateDemand>& demands, const KernelName& name) {
  for (const TemplateDemand& demand : demands) {
    const std::vector<std::string> arguments =
        demand.of.empty() ? name.template_arguments
                          : template_arguments_of(find_template_instance(name.name, demand.of));
    const std::string argument = template_argument_at(arguments, demand.path);
    if (argument.empty() || !demand.value.found_in(argument)) {
      return "template argument " + demand.path + (demand.of.empty() ? "" : " of " + demand.of) +
             " is \"" + argument.substr(0, 60) + "\"";
    }
  }
  return {};
}

/// The type that `element` of the entry names; empty when there is none.
std::string element_type(const KernelEntry& entry, const KernelName& name) {
  if (!entry.element_path.starts_with('*')) {
    return template_argument_at(name.template_arguments, entry.element_path);
  }
  if (!entry.parameters || !name.parameters) return {};
  const std::string_view wanted = std::string_view(entry.element_path).substr(1);
  for (std::size_t i = 0; i < entry.parameters->size() && i < name.parameters->size(); ++i) {
    if ((*entry.parameters)[i].name == wanted) return pointee_type((*name.parameters)[i]);
  }
  return {};
}

struct FittingTable {
  const TableForm* form = nullptr;
  std::size_t element = 0;
};

/// The first table of the entry that fits the kernel's name and parameters.
FittingTable table_of(const KernelEntry& entry, const KernelName& name,
                      std::span<const ParamLayout> params) {
  for (const TableForm& form : entry.tables) {
    const bool inside =
        std::all_of(form.fields.begin(), form.fields.end(), [&](const TableForm::Field& field) {
          return field.param < params.size() &&
                 field.offset + field.size <= params[field.param].size;
        });
    if (!inside || !unmet_demand(form.demands, name).empty()) continue;
    if (form.element_path.empty()) return {&form, 0};
    const auto size =
        known_type_size(template_argument_at(name.template_arguments, form.element_path));
    if (size) return {&form, *size};
  }
  return {};
}

bool reads_only(const KernelKnowledge& kernel) {
  return std::find(kernel.word_is_read_only.begin(), kernel.word_is_read_only.end(), false) ==
         kernel.word_is_read_only.end();
}

}  // namespace

struct KernelCatalog::Impl {
  const Profiles* profiles = nullptr;
  std::vector<const TypeLayout*> layouts;
};

KernelCatalog::KernelCatalog(const Profiles& profiles) : impl_(std::make_unique<Impl>()) {
  impl_->profiles = &profiles;
  for (const Profile& profile : profiles.impl().profiles) {
    for (const TypeLayout& layout : profile.layouts) impl_->layouts.push_back(&layout);
  }
}

KernelCatalog::~KernelCatalog() = default;

std::shared_ptr<const KernelKnowledge> KernelCatalog::classify(
    std::string_view mangled_name, std::span<const ParamLayout> params) const {
  const KernelName name = parse_kernel_name(mangled_name);
  std::string near_miss;
  for (const Profile& profile : impl_->profiles->impl().profiles) {
    for (const KernelEntry& entry : profile.kernels) {
      if (!entry.match.found_in(name.name)) continue;
      std::optional<std::size_t> element;
      std::string problem;
      if (!entry.element_path.empty()) {
        const std::string type = element_type(entry, name);
        element = known_type_size(type);
        if (!element) problem = "the size of \"" + type.substr(0, 60) + "\" is unknown";
      }
      if (problem.empty()) problem = misfit(entry, name, params, element);
      if (problem.empty()) problem = unmet_demand(entry.demands, name);
      if (!problem.empty()) {
        if (near_miss.empty()) near_miss = "not " + entry.label + ": " + problem + "; ";
        continue;
      }
      const FittingTable table = table_of(entry, name, params);
      auto known = std::make_shared<ClassifiedKernel>(
          &entry, params, element, find_words(name, params, impl_->layouts, &entry), table.form,
          table.element);
      known->role = entry.role;
      known->stays_in_written = entry.stays_in_written;
      known->reason = entry.label;
      if (known->has_table) known->reason += "; its block table is known";
      if (entry.role == KernelRole::kUnknown && reads_only(*known)) {
        known->role = KernelRole::kReader;
        known->reason += ", which takes only pointers to const here";
      }
      return known;
    }
  }
  KernelWords words = find_words(name, params, impl_->layouts, nullptr);
  const std::string note = words.note;
  auto known = std::make_shared<ClassifiedKernel>(nullptr, params, std::nullopt, std::move(words));
  if (reads_only(*known)) {
    known->role = KernelRole::kReader;
    known->reason =
        near_miss + (known->words.empty() ? "takes no pointers" : "takes only pointers to const");
  } else {
    known->reason = near_miss + "no profile entry; " + note;
  }
  return known;
}

}  // namespace kvshim::heuristics
