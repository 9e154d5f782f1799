// Durations as the log's lines tell them.
#pragma once

#include <chrono>
#include <string>

namespace kvshim::vmm {

/// "12.3 ms"; rounded down.
inline std::string in_milliseconds(std::chrono::nanoseconds time) {
  const auto tenths = std::chrono::duration_cast<std::chrono::microseconds>(time).count() / 100;
  return std::to_string(tenths / 10) + "." + std::to_string(tenths % 10) + " ms";
}

}  // namespace kvshim::vmm
