#include "tests/simulator/address_space.h"

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <shared_mutex>
#include <thread>
#include <vector>

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

namespace {

// Each mapping has its own number; opening it changes its access.
std::vector<std::uint64_t> mappings_in(std::uint64_t address, std::uint64_t bytes) {
  Table& all = table();
  const std::shared_lock lock(all.mutex);
  std::vector<std::uint64_t> found;
  auto next = all.holding(address);
  if (next == all.ranges.end()) next = all.ranges.lower_bound(address);
  for (; next != all.ranges.end() && next->second.base < address + bytes; ++next) {
    if (next->second.kind != RangeKind::kMapping) continue;
    found.push_back(next->second.buffer_id);
    found.push_back(next->second.access);
  }
  return found;
}

std::chrono::microseconds looks_take() {
  static const std::chrono::microseconds time = [] {
    const char* text = std::getenv("KVSHIM_SIM_LOOKS_TAKE");
    return std::chrono::microseconds(text == nullptr ? 0 : std::strtol(text, nullptr, 10));
  }();
  return time;
}

}  // namespace

bool is_covered_at_a_look(std::uint64_t address, std::uint64_t bytes, AccessKind kind) {
  const auto time = looks_take();
  if (time.count() == 0) return is_covered(address, bytes, kind);
  const std::vector<std::uint64_t> before = mappings_in(address, bytes);
  const bool covered = is_covered(address, bytes, kind);
  std::this_thread::sleep_for(time);
  if (mappings_in(address, bytes) != before) {
    std::fputs("simulator: a mapping changed while the driver looked at it\n", stderr);
    std::signal(SIGSEGV, SIG_DFL);  // the simulator's handler is for kernels and copies
    std::raise(SIGSEGV);
  }
  return covered;
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
