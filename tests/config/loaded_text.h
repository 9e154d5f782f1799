// What most configuration tests need: load a text for a made-up process.
#pragma once

#include <string>
#include <vector>

#include "config/loader.h"

namespace kvshim::config {

inline Loaded load_for(const std::string& toml, const ProcessFacts& facts = {},
                       const std::vector<std::string>& sets = {}) {
  return load_text(toml, "test.toml", facts, sets);
}

}  // namespace kvshim::config
