// What an operator allows a process on one GPU.
#pragma once

#include <atomic>
#include <cstdint>

namespace kvshim::vmm {

/// Bytes of GPU memory. Read at every fault, changed at any time by any thread.
struct Limits {
  /// Most memory of the process, pools and the rest; 0: none. Pools grow no further
  /// and are released down to it in their next quiet moment.
  std::atomic<std::uint64_t> limit{0};
  /// What an engine is told as the total when it is more than the limit in force: that may
  /// be a share which changes with what others do. 0: the limit.
  std::atomic<std::uint64_t> shown{0};
  /// What others hold of that total that is no pool.
  std::atomic<std::uint64_t> shown_taken{0};
  /// What of the process is no pool, as far as it is known.
  std::atomic<std::uint64_t> other_bytes{0};
  /// Of the process's memory, what neighbours never get.
  std::atomic<std::uint64_t> reserve{0};
  /// No idle release, nothing for neighbours, nothing made present ahead of use.
  std::atomic<bool> paused{false};
};

}  // namespace kvshim::vmm
