#include "preload/pool_refusal.h"

#include <cstdint>
#include <cstdio>
#include <mutex>
#include <set>
#include <string>
#include <utility>

#include "observe/log.h"

namespace kvshim::preload {
namespace {

bool first_time(const char* entry_point, std::uint64_t buffer_id) {
  // Entry points are literals of ours, so their addresses tell them apart. Leaked:
  // hooks run until the process has ended.
  static auto* mutex = new std::mutex;
  static auto* seen = new std::set<std::pair<const void*, std::uint64_t>>;
  const std::lock_guard lock(*mutex);
  return seen->emplace(entry_point, buffer_id).second;
}

}  // namespace

CUresult refuse_pool(const char* entry_point, const PoolView& pool, const char* what,
                     CUresult result) {
  if (first_time(entry_point, pool.buffer_id)) {
    // Rules compare the size that was asked for.
    const std::size_t asked = pool.requested_bytes != 0 ? pool.requested_bytes : pool.bytes;
    char line[512];
    std::snprintf(
        line, sizeof line,
        "%s: %s is not possible for the pool at 0x%llx (%zu bytes): refused with the "
        "driver's error. A rule that leaves such an allocation alone, to stand in front of "
        "other rules of the configuration:\n[[rules]]\naction = \"deny\"\nmin_size = "
        "%zu\nmax_size = %zu",
        entry_point, what, static_cast<unsigned long long>(pool.base), asked, asked, asked);
    log::warning(line);
  }
  return result;
}

}  // namespace kvshim::preload
