// Freed pools that are still there.
#pragma once

#include <cuda.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <mutex>

namespace kvshim::preload {

struct DeferredFree {
  CUdeviceptr base;
  std::uint64_t pool;  // id: another may lie there by then
  CUevent event;       // where its stream has to get; null: nowhere
  bool behind_all;     // behind all pool work that was submitted before
};

/// Those of the process. Thread-safe.
class DeferredFrees {
 public:
  DeferredFrees() noexcept = default;
  void add(const DeferredFree& one);
  /// Whether there are any, those included that are being dealt with.
  bool any();
  /// Takes out those whose time has come. `has_come` is called under the lock: queries only.
  std::list<DeferredFree> take(const std::function<bool(const DeferredFree&)>& has_come);
  /// The first of those taken out has gone, or waits again.
  void settle(std::list<DeferredFree>* taken, bool gone);

 private:
  std::mutex mutex_;
  std::list<DeferredFree> waiting_;
  std::size_t taken_ = 0;  // and not yet settled
};

DeferredFrees& deferred_frees() noexcept;
void forget_deferred_frees_after_fork() noexcept;

}  // namespace kvshim::preload
