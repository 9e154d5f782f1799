// Parts of a kernel's entry that its block table has as well. Brings all of toml++ along:
// for the parsers alone.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "heuristics/profile_data.h"
#include "heuristics/toml_reader.h"

namespace kvshim::heuristics {

/// The [[require]] entries of a table.
std::vector<TemplateDemand> parse_demands(TomlReader& reader, const toml::table& table);

/// "grid.x" to "block.z" as names of expressions.
std::optional<std::uint32_t> launch_dimension(std::string_view name);

/// One [[kernel.table]]. Errors are noted with the reader; the form means nothing then.
TableForm parse_table(TomlReader& reader, const toml::table& table);

}  // namespace kvshim::heuristics
