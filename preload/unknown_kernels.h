// Kernels without a profile that named pools: figures for the status file.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace kvshim::preload {

struct UnknownKernel {
  std::uint64_t launches = 0;
  std::uint64_t bytes = 0;  // reach, summed over launches
  std::string words;        // of the first launch
  bool warned = false;      // of what it made present
};

/// By kernel name, in no order. Any thread.
std::vector<std::pair<std::string, UnknownKernel>> unknown_kernels();

}  // namespace kvshim::preload
