#include "config/environment.h"

#include <algorithm>
#include <array>

#include "config/option_table.h"
#include "config/suggestion.h"

namespace kvshim::config {
namespace {

std::vector<std::string_view> option_names() {
  std::vector<std::string_view> names;
  for (const OptionEntry& entry : option_table()) names.push_back(entry.name);
  return names;
}

}  // namespace

const std::string* find_variable(const Environment& environment, std::string_view name) {
  for (const auto& [variable, value] : environment) {
    if (variable == name) return &value;
  }
  return nullptr;
}

bool disabled_by(const Environment& environment) {
  const std::string* value = find_variable(environment, "KVSHIM_DISABLE");
  if (value == nullptr) return false;
  constexpr std::array<std::string_view, 5> kNo{"", "0", "false", "no", "off"};
  return std::find(kNo.begin(), kNo.end(), *value) == kNo.end();
}

void read_environment(const Environment& environment, Options* options,
                      std::vector<std::string>* problems) {
  std::vector<std::string> names;
  for (const OptionEntry& entry : option_table()) names.push_back(environment_name(entry.name));
  const std::vector<std::string_view> known(names.begin(), names.end());
  for (const auto& [variable, value] : environment) {
    if (!variable.starts_with("KVSHIM_")) continue;
    const auto place = std::find(known.begin(), known.end(), variable);
    if (place != known.end()) {
      const OptionEntry& option = option_table()[static_cast<std::size_t>(place - known.begin())];
      const std::string complaint = option.assign_text(*options, value);
      if (!complaint.empty()) problems->push_back(variable + ": " + complaint);
      continue;
    }
    // Other names may belong to other parts; only what looks mistyped is told.
    constexpr std::array<std::string_view, 5> kOthers{
        "KVSHIM_CONFIG", "KVSHIM_SET", "KVSHIM_DISABLE", "KVSHIM_COMMAND", "KVSHIM_LIBRARY"};
    if (std::find(kOthers.begin(), kOthers.end(), variable) != kOthers.end()) continue;
    const std::string_view near = nearest_name(std::string_view(variable).substr(7), [&] {
      std::vector<std::string_view> endings = known;
      for (std::string_view& name : endings) name.remove_prefix(7);
      return endings;
    }());
    if (!near.empty()) {
      problems->push_back(variable + ": unknown option, did you mean KVSHIM_" + std::string(near) +
                          "?");
    }
  }
}

void read_sets(std::span<const std::string> sets, Options* options,
               std::vector<std::string>* problems) {
  for (const std::string& set : sets) {
    const std::size_t equals = set.find('=');
    const std::string name = set.substr(0, equals);
    if (equals == std::string::npos) {
      problems->push_back("--set " + set + ": expected name=value");
      continue;
    }
    const OptionEntry* option = find_option(name);
    if (option == nullptr) {
      std::string problem = "--set " + set + ": unknown option \"" + name + "\"";
      const std::string_view near = nearest_name(name, option_names());
      if (!near.empty()) problem += ", did you mean \"" + std::string(near) + "\"?";
      problems->push_back(std::move(problem));
      continue;
    }
    const std::string complaint = option->assign_text(*options, set.substr(equals + 1));
    if (!complaint.empty()) problems->push_back("--set " + name + ": " + complaint);
  }
}

std::vector<std::string> split_sets(const std::string& text) {
  std::vector<std::string> sets;
  std::size_t start = 0;
  while (start < text.size()) {
    const std::size_t end = std::min(text.find('\n', start), text.size());
    if (end > start) sets.push_back(text.substr(start, end - start));
    start = end + 1;
  }
  return sets;
}

}  // namespace kvshim::config
