#include "tools/kvshim/command_table.h"

#include <CLI/CLI.hpp>

#include "tools/kvshim/screen_order.h"

namespace kvshim::cli {
namespace {

/// CLI11 keeps a validator only as a function and a text, so choices are known by
/// the value's name.
ValueDescription value_named(const std::string& name) {
  if (name == "PID|NAME" || name == "PID") return {name, ValueKind::kProcess, {}};
  if (name == "FILE") return {name, ValueKind::kFile, {}};
  if (name == "COMMAND") return {name, ValueKind::kCommand, {}};
  if (name == "SHELL") return {name, ValueKind::kChoices, {"bash", "zsh", "fish"}};
  if (name == "COLUMN") return {name, ValueKind::kChoices, sort_names()};
  return {name, ValueKind::kOther, {}};
}

/// The name without what CLI11 adds for validators ("SECONDS:FLOAT in [0.1 - 3600]").
std::string bare(const std::string& type_name) { return type_name.substr(0, type_name.find(':')); }

OptionDescription option_of(const CLI::Option& option) {
  OptionDescription description;
  for (const std::string& name : option.get_snames()) description.names.push_back("-" + name);
  for (const std::string& name : option.get_lnames()) description.names.push_back("--" + name);
  description.text = option.get_description();
  description.takes_value = option.get_items_expected_max() > 0;
  description.required = option.get_required();
  description.repeats = option.get_items_expected_max() > 1;
  description.value = value_named(bare(option.get_type_name()));
  return description;
}

void add(const CLI::App& app, const std::string& name, std::vector<CommandDescription>* all) {
  CommandDescription command;
  command.name = name;
  command.text = app.get_description();
  command.footer = app.get_footer();
  for (const CLI::Option* option : app.get_options()) {
    if (option->get_group().empty()) continue;
    OptionDescription description = option_of(*option);
    const bool positional = option->get_positional();
    (positional ? command.positionals : command.options).push_back(std::move(description));
  }
  const auto below = app.get_subcommands([](const CLI::App*) { return true; });
  for (const CLI::App* one : below) command.commands.push_back(one->get_name());
  all->push_back(std::move(command));
  for (const CLI::App* one : below) {
    add(*one, name.empty() ? one->get_name() : name + " " + one->get_name(), all);
  }
}

}  // namespace

std::vector<CommandDescription> command_table(const CLI::App& app) {
  std::vector<CommandDescription> all;
  add(app, "", &all);
  return all;
}

}  // namespace kvshim::cli
