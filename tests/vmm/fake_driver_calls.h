// What the fake driver's functions share. Only for fake_driver*.cpp.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>

#include "tests/vmm/fake_driver.h"

/// First in each driver function: counts the call, and fails it if a test asked so.
#define KVSHIM_INJECT(name) \
  if (const CUresult error = self().injected(Call::name); error != CUDA_SUCCESS) return error

namespace kvshim::vmm::testing {

inline std::string hex(std::uint64_t value) {
  char text[32];
  std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(value));
  return text;
}

}  // namespace kvshim::vmm::testing
