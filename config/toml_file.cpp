#include "config/toml_file.h"

#include <toml++/toml.h>

#include <algorithm>
#include <array>
#include <optional>
#include <span>
#include <sstream>
#include <string_view>

#include "config/option_table.h"
#include "config/quantities.h"
#include "config/suggestion.h"
#include "text/pattern.h"

namespace kvshim::config {
namespace {

using text::Pattern;

constexpr std::array<std::string_view, 3> kMatchKeys{"executable", "command_line", "environment"};
constexpr std::array<std::string_view, 5> kRuleKeys{"action", "call_site", "min_size", "max_size",
                                                    "role"};

/// Collects one line for each thing that is wrong.
class Problems {
 public:
  Problems(const std::string& file, std::vector<std::string>* lines) : file_(file), lines_(lines) {}
  const std::string& file() const { return file_; }

  void add(const toml::source_region& where, const std::string& what) {
    lines_->push_back(file_ + ":" + std::to_string(where.begin.line) + ":" +
                      std::to_string(where.begin.column) + ": " + what);
  }
  void add_to_last(std::string_view what) { lines_->back() += what; }
  void add_unknown(const toml::key& key, std::string_view place,
                   std::span<const std::string_view> known) {
    std::string what = "unknown " + std::string(place) + " \"" + std::string(key.str()) + "\"";
    const std::string_view near = nearest_name(key.str(), known);
    if (!near.empty()) what += ", did you mean \"" + std::string(near) + "\"?";
    add(key.source(), what);
  }

 private:
  const std::string& file_;
  std::vector<std::string>* lines_;
};

std::optional<Scalar> scalar_of(const toml::node& node) {
  if (const auto* flag = node.as_boolean()) return flag->get();
  if (const auto* whole = node.as_integer()) return whole->get();
  if (const auto* number = node.as_floating_point()) return number->get();
  if (const auto* text = node.as_string()) return text->get();
  return std::nullopt;
}

std::string kind_of(const toml::node& node) {
  std::ostringstream text;
  text << node.type();
  return "a TOML " + text.str();
}

/// The node as text, or a problem.
std::optional<std::string> text_of(const toml::node& node, const std::string& name,
                                   Problems& problems) {
  if (const auto* text = node.as_string()) return text->get();
  problems.add(node.source(), name + ": expected a text in quotes, got " + kind_of(node));
  return std::nullopt;
}

std::optional<Pattern> pattern_of(const toml::node& node, const std::string& name,
                                  Problems& problems) {
  const auto text = text_of(node, name, problems);
  if (!text) return std::nullopt;
  std::string complaint;
  auto pattern = Pattern::compile(*text, &complaint);
  if (!pattern) problems.add(node.source(), name + ": " + complaint);
  return pattern;
}

std::optional<Bytes> size_of(const toml::node& node, const std::string& name, Problems& problems) {
  std::string complaint;
  std::optional<Bytes> size;
  if (const auto* whole = node.as_integer(); whole != nullptr && whole->get() >= 0) {
    size = static_cast<Bytes>(whole->get());
  } else if (const auto* text = node.as_string()) {
    size = parse_bytes(text->get(), &complaint);
  } else {
    complaint = "expected a size such as \"64MiB\", got " + kind_of(node);
  }
  if (!size) problems.add(node.source(), name + ": " + complaint);
  return size;
}

/// One [[rules]] entry; nothing when any part of it is wrong, for half a rule
/// would take or spare what its author didn't mean.
std::optional<RuleOption> rule_of(const toml::node& node, Problems& problems) {
  const toml::table* table = node.as_table();
  if (table == nullptr) {
    problems.add(node.source(), "rules: expected [[rules]] sections, got " + kind_of(node));
    return std::nullopt;
  }
  RuleOption rule;
  rule.source = problems.file() + ":" + std::to_string(node.source().begin.line);
  bool has_action = false;
  bool good = true;
  for (const auto& [key, value] : *table) {
    const std::string name = "rules." + std::string(key.str());
    if (key == "action") {
      const auto* action = value.as_string();
      has_action = true;
      if (action != nullptr && (action->get() == "allow" || action->get() == "deny")) {
        rule.allow = action->get() == "allow";
      } else {
        problems.add(value.source(), name + ": expected \"allow\" or \"deny\"");
        good = false;
      }
    } else if (key == "call_site") {
      good = pattern_of(value, name, problems).has_value() && good;
      rule.call_site = value.value_or(std::string());
    } else if (key == "min_size" || key == "max_size") {
      const auto size = size_of(value, name, problems);
      if (size && *size == 0 && key == "max_size") {
        problems.add(value.source(), name + ": 0 would match nothing");
        good = false;
      }
      good = good && size.has_value();
      (key == "min_size" ? rule.min_size : rule.max_size) = size.value_or(0);
    } else if (key == "role") {
      const auto role = text_of(value, name, problems);
      good = good && role.has_value();
      rule.role = role.value_or("");
    } else {
      problems.add_unknown(key, "key of a rule", kRuleKeys);
      good = false;
    }
  }
  if (!has_action) {
    problems.add(node.source(), "rules: \"action\" is missing, expected \"allow\" or \"deny\"");
    good = false;
  } else if (good && rule.min_size > rule.max_size) {
    problems.add(node.source(), "rules: min_size is larger than max_size");
    good = false;
  }
  if (good) return rule;
  problems.add_to_last("; the rule is not used");
  return std::nullopt;
}

std::vector<RuleOption> rules_of(const toml::node& node, Problems& problems) {
  std::vector<RuleOption> rules;
  const toml::array* list = node.as_array();
  if (list == nullptr) {
    problems.add(node.source(), "rules: expected [[rules]] sections, got " + kind_of(node));
    return rules;
  }
  for (const toml::node& entry : *list) {
    if (auto rule = rule_of(entry, problems)) rules.push_back(std::move(*rule));
  }
  return rules;
}

bool found_in_any(const Pattern& pattern, const std::vector<std::string>& texts) {
  return std::any_of(texts.begin(), texts.end(),
                     [&](const std::string& text) { return pattern.found_in(text); });
}

/// Whether a section's environment table holds: each pattern is found in the
/// value of the variable of that name. An unset variable matches nothing.
bool environment_matches(const toml::node& node, const ProcessFacts& facts, Problems& problems) {
  const toml::table* table = node.as_table();
  if (table == nullptr) {
    problems.add(node.source(),
                 "match.environment: expected { NAME = \"pattern\" }, got " + kind_of(node));
    return false;
  }
  bool matches = true;
  for (const auto& [key, value] : *table) {
    const std::string name(key.str());
    const auto pattern = pattern_of(value, "match.environment." + name, problems);
    matches =
        matches && pattern &&
        std::any_of(facts.environment.begin(), facts.environment.end(), [&](const auto& variable) {
          return variable.first == name && pattern->found_in(variable.second);
        });
  }
  return matches;
}

/// Whether all conditions of a [[process]] section hold. A condition that
/// can't be evaluated doesn't; all are looked at, so that all are checked.
bool section_matches(const toml::table& section, const ProcessFacts& facts, Problems& problems) {
  const toml::node* match = section.get("match");
  const toml::table* conditions = match == nullptr ? nullptr : match->as_table();
  if (conditions == nullptr || conditions->empty()) {
    problems.add(match == nullptr ? section.source() : match->source(),
                 "process: expected match = { executable, command_line or environment }; the "
                 "section is not used");
    return false;
  }
  bool matches = true;
  for (const auto& [key, value] : *conditions) {
    const std::string name = "match." + std::string(key.str());
    if (key == "executable" || key == "command_line") {
      const auto pattern = pattern_of(value, name, problems);
      const auto& texts = key == "executable" ? facts.executables : facts.command_lines;
      matches = matches && pattern && found_in_any(*pattern, texts);
    } else if (key == "environment") {
      matches = environment_matches(value, facts, problems) && matches;
    } else {
      problems.add_unknown(key, "condition", kMatchKeys);
      matches = false;
    }
  }
  return matches;
}

/// Reads the options of the file or of one section. `own_keys` are handled by
/// the caller.
void read_options(const toml::table& table, std::span<const std::string_view> own_keys,
                  Options* options, Problems& problems) {
  for (const auto& [key, value] : table) {
    if (std::find(own_keys.begin(), own_keys.end(), key.str()) != own_keys.end()) continue;
    const OptionEntry* option = find_option(key.str());
    if (option == nullptr) {
      std::vector<std::string_view> known(own_keys.begin(), own_keys.end());
      for (const OptionEntry& entry : option_table()) known.push_back(entry.name);
      problems.add_unknown(key, "option", known);
      continue;
    }
    const auto scalar = scalar_of(value);
    const std::string complaint =
        scalar ? option->assign(*options, *scalar)
               : "expected " + std::string(option->kind) + ", got " + kind_of(value);
    if (!complaint.empty()) {
      problems.add(value.source(), std::string(option->name) + ": " + complaint);
    }
  }
}

void prepend(std::vector<RuleOption> rules, std::vector<RuleOption>* to) {
  rules.insert(rules.end(), std::make_move_iterator(to->begin()),
               std::make_move_iterator(to->end()));
  *to = std::move(rules);
}

void read_sections(const toml::node& node, const ProcessFacts& facts, Options* options,
                   Problems& problems) {
  constexpr std::array<std::string_view, 2> kOwnKeys{"match", "rules"};
  const toml::array* sections = node.as_array();
  if (sections == nullptr) {
    problems.add(node.source(), "process: expected [[process]] sections, got " + kind_of(node));
    return;
  }
  for (const toml::node& entry : *sections) {
    const toml::table* section = entry.as_table();
    if (section == nullptr) {
      problems.add(entry.source(),
                   "process: expected a [[process]] section, got " + kind_of(entry));
      continue;
    }
    // Read whether it matches or not, so that kvwrap's check sees every line.
    const bool matches = section_matches(*section, facts, problems);
    Options with_section = *options;
    read_options(*section, kOwnKeys, &with_section, problems);
    if (const toml::node* rules = section->get("rules")) {
      prepend(rules_of(*rules, problems), &with_section.rules);
    }
    if (matches) *options = std::move(with_section);
  }
}

}  // namespace

void read_toml(const std::string& text, const std::string& file, const ProcessFacts& facts,
               Options* options, std::vector<std::string>* lines) {
  constexpr std::array<std::string_view, 2> kOwnKeys{"process", "rules"};
  Problems problems(file, lines);
  const toml::parse_result parsed = toml::parse(text, file);
  if (!parsed) {
    problems.add(parsed.error().source(), "not TOML: " + std::string(parsed.error().description()) +
                                              "; nothing of this file is used");
    return;
  }
  const toml::table& root = parsed.table();
  read_options(root, kOwnKeys, options, problems);
  if (const toml::node* rules = root.get("rules"))
    prepend(rules_of(*rules, problems), &options->rules);
  if (const toml::node* sections = root.get("process")) {
    read_sections(*sections, facts, options, problems);
  }
}

}  // namespace kvshim::config
