// The copy that parks contents in host memory or brings them back, as ThreadSanitizer may see it.
#pragma once

#include <cstddef>
#include <cstring>

#include "vmm/kernels/kernel_env.h"

namespace kvshim::simulator {

/// Parking and prefetch copy with the gate open: what new work writes meanwhile may be
/// seen or not, and its entry, or its question, makes the copy void (docs/invariants.md,
/// "What is read with the gate open"). Only the reads of such a copy are exempt from
/// ThreadSanitizer; its writes, and all other copies, are checked.
/// REQUIRES: addresses and `bytes` are multiples of 8; no overlap.
inline void copy_beside_work(void* to, const void* from, std::size_t bytes) {
#if defined(KVSHIM_SANITIZE_THREAD)
  auto* out = static_cast<unsigned long long*>(to);
  const auto* in = static_cast<const unsigned long long*>(from);
  for (std::size_t i = 0; i < bytes / sizeof *in; ++i) out[i] = kernel_env::load_unordered(in + i);
#else
  std::memcpy(to, from, bytes);
#endif
}

}  // namespace kvshim::simulator
