#include "tests/simulator/address_space.h"

#include <map>
#include <mutex>
#include <shared_mutex>

namespace kvshim::simulator {
namespace {

struct Table {
  std::shared_mutex mutex;
  std::map<std::uint64_t, Range> ranges;
  std::uint64_t next_buffer_id = 1;

  std::map<std::uint64_t, Range>::iterator holding(std::uint64_t address) {
    auto next = ranges.upper_bound(address);
    if (next == ranges.begin()) return ranges.end();
    --next;
    return address < next->second.end() ? next : ranges.end();
  }
};

Table& table() {
  static Table* const instance = new Table;
  return *instance;
}

}  // namespace

void add_range(Range range) {
  Table& all = table();
  const std::unique_lock lock(all.mutex);
  range.buffer_id = all.next_buffer_id++;
  all.ranges[range.base] = range;
}

std::optional<Range> take_range(std::uint64_t base, RangeKind kind) {
  Table& all = table();
  const std::unique_lock lock(all.mutex);
  const auto found = all.ranges.find(base);
  if (found == all.ranges.end() || found->second.kind != kind) return std::nullopt;
  const Range range = found->second;
  all.ranges.erase(found);
  return range;
}

std::optional<Range> find_range(std::uint64_t address) {
  Table& all = table();
  const std::shared_lock lock(all.mutex);
  const auto found = all.holding(address);
  if (found == all.ranges.end()) return std::nullopt;
  return found->second;
}

bool change_range(std::uint64_t base, void (*change)(Range&, std::uint64_t), std::uint64_t value) {
  Table& all = table();
  const std::unique_lock lock(all.mutex);
  const auto found = all.ranges.find(base);
  if (found == all.ranges.end()) return false;
  change(found->second, value);
  return true;
}

bool is_covered(std::uint64_t address, std::uint64_t bytes, AccessKind kind) {
  if (bytes == 0) return true;
  if (address + bytes < address) return false;
  Table& all = table();
  const std::shared_lock lock(all.mutex);
  auto found = all.holding(address);
  std::uint64_t reached = address;
  while (found != all.ranges.end() && found->second.base <= reached) {
    const Range& range = found->second;
    const unsigned least = kind == AccessKind::kWrite ? CU_MEM_ACCESS_FLAGS_PROT_READWRITE
                                                      : CU_MEM_ACCESS_FLAGS_PROT_READ;
    if (range.kind == RangeKind::kMapping && range.access < least) return false;
    reached = range.end();
    if (reached >= address + bytes) return true;
    // Ordinary allocations are not contiguous with each other even when they
    // are neighbours; mappings are.
    if (range.kind != RangeKind::kMapping) return false;
    ++found;
  }
  return false;
}

bool is_known(std::uint64_t address) {
  Table& all = table();
  const std::shared_lock lock(all.mutex);
  return all.holding(address) != all.ranges.end();
}

Tally live_ranges(RangeKind kind) {
  Table& all = table();
  const std::shared_lock lock(all.mutex);
  Tally tally;
  for (const auto& [base, range] : all.ranges) {
    if (range.kind != kind) continue;
    ++tally.count;
    tally.bytes += range.bytes;
  }
  return tally;
}

std::optional<Range> take_any_range_of(const Context* context) {
  Table& all = table();
  const std::unique_lock lock(all.mutex);
  for (auto it = all.ranges.begin(); it != all.ranges.end(); ++it) {
    if (it->second.context != context || it->second.kind == RangeKind::kMapping) continue;
    const Range range = it->second;
    all.ranges.erase(it);
    return range;
  }
  return std::nullopt;
}

}  // namespace kvshim::simulator
