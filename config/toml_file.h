// The TOML file: its options, [[rules]] and [[process]] sections.
#pragma once

#include <string>
#include <vector>

#include "config/loader.h"
#include "config/options.h"

namespace kvshim::config {

/// Reads `text` into `options`: first the file's own options, then those of
/// each [[process]] section that matches `facts`, in order. What is wrong adds
/// one line "file:line:column: ..." to `problems` and changes nothing; a text
/// that isn't TOML changes nothing at all.
///
/// Rules end up in the order in which they are to be tried: those of matching
/// sections first, the last section's first of all, then the file's own.
void read_toml(const std::string& text, const std::string& file, const ProcessFacts& facts,
               Options* options, std::vector<std::string>* problems);

}  // namespace kvshim::config
