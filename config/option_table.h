// The options table at run time: names, kinds, texts, and how a value is read
// into its place. Everything that handles options by name goes through it.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <variant>

#include "config/options.h"

namespace kvshim::config {

/// A value as a TOML file can hold it.
using Scalar = std::variant<bool, std::int64_t, double, std::string>;

struct OptionEntry {
  std::string_view name;
  /// What a value looks like, for messages and the reference ("a size such as ...").
  std::string_view kind;
  std::string_view text;
  /// Reads the value into its option. Returns an empty string, or what is
  /// wrong with the value; the option is then as before.
  std::string (*assign)(Options& options, const Scalar& value);
  /// The same from the text of an environment variable or --set.
  std::string (*assign_text)(Options& options, std::string_view text);
  /// The option's value in TOML notation.
  std::string (*as_toml)(const Options& options);
};

/// All options, in the table's order.
std::span<const OptionEntry> option_table();

/// The option of that name, or null.
const OptionEntry* find_option(std::string_view name);

/// The name of the option's environment variable: KVSHIM_IDLE_TIMEOUT.
std::string environment_name(std::string_view option);

}  // namespace kvshim::config
