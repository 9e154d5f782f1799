// What the CUDA driver says of itself. Asked in a child process, so that a driver
// that crashes or hangs takes nothing along; no context is ever made.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tools/kvshim/outcome.h"

namespace kvshim::cli {

/// The hidden only argument that makes this program the child.
inline constexpr const char* kProbeArgument = "--kvshim-probe-driver";

struct DriverGpu {
  std::string name;
  std::string uuid;
  std::uint64_t total = 0;
  int compute_capability = 0;   // 90 for 9.0
  bool virtual_memory = false;  // virtual memory management is supported
  bool mps = false;             // contexts of this user are shared through MPS
};

struct DriverFacts {
  std::string failure;      // why nothing is known; empty: the driver answers
  std::string path;         // of libcuda.so.1
  int version = 0;          // 13000 for 13.0
  bool param_info = false;  // has cuFuncGetParamInfo (CUDA 12.4)
  std::vector<DriverGpu> gpus;
};

/// Starts the child and reads its answer; at most `seconds`.
DriverFacts probe_driver(double seconds = 15);

/// The child's part: prints the facts as JSON.
Exit print_driver_facts();

}  // namespace kvshim::cli
