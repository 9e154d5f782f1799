// One line of kvshim doctor.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace kvshim::cli {

enum class Level : std::uint8_t { kOk, kWarn, kFail };

struct Finding {
  Level level = Level::kOk;
  std::string subject;  // "driver"
  std::string text;     // what was found
  std::string remedy;   // what to do; empty when there is nothing to do
};

using Findings = std::vector<Finding>;

}  // namespace kvshim::cli
