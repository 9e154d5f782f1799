#include "preload/sync_memops.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <vector>

#include "preload/real_driver.h"

namespace kvshim::preload {
namespace {

// Keyed by buffer id, which no later pool gets again: freeing a pool needs no
// notice here. Leaked on purpose, as hooks run until the process has ended.
struct Flagged {
  std::mutex mutex;
  std::vector<std::uint64_t> buffer_ids;
  std::atomic<bool> any{false};
};

Flagged& flagged() {
  static auto* instance = new Flagged;
  return *instance;
}

}  // namespace

void set_sync_memops(const PoolView& pool, bool on) {
  Flagged& all = flagged();
  const std::lock_guard lock(all.mutex);
  const auto place = std::find(all.buffer_ids.begin(), all.buffer_ids.end(), pool.buffer_id);
  if (on && place == all.buffer_ids.end()) all.buffer_ids.push_back(pool.buffer_id);
  if (!on && place != all.buffer_ids.end()) all.buffer_ids.erase(place);
  all.any.store(!all.buffer_ids.empty(), std::memory_order_relaxed);
}

bool sync_memops(const PoolView& pool) noexcept {
  Flagged& all = flagged();
  if (!all.any.load(std::memory_order_relaxed)) return false;
  const std::lock_guard lock(all.mutex);
  return std::find(all.buffer_ids.begin(), all.buffer_ids.end(), pool.buffer_id) !=
         all.buffer_ids.end();
}

CUresult finish_sync_memop(StreamRef stream, std::span<const Access> accesses, CUresult result) {
  if (result != CUDA_SUCCESS || !flagged().any.load(std::memory_order_relaxed)) return result;
  const bool concerned = std::any_of(accesses.begin(), accesses.end(), [](const Access& access) {
    const auto pool = find_pool(access.address);
    return pool && sync_memops(*pool);
  });
  return concerned ? real().cuStreamSynchronize(stream.explicit_handle()) : result;
}

}  // namespace kvshim::preload
