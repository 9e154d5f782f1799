// "Did you mean ...": the nearest of the names that would have been right.
#pragma once

#include <span>
#include <string_view>

namespace kvshim::config {

/// The name with the fewest edits (insertion, deletion, exchange, swap of
/// neighbours) to `wrong`; empty when none is near enough to be meant: more
/// edits than a third of the letters.
std::string_view nearest_name(std::string_view wrong, std::span<const std::string_view> names);

}  // namespace kvshim::config
