// A DeviceMemory on the fake driver, and what tests ask of it.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tests/vmm/fake_driver.h"
#include "vmm/device_memory.h"

namespace kvshim::vmm::testing {

inline constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
inline constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;

/// For read_ahead_max: one granule at a time.
inline constexpr std::uint64_t kNoReadAhead = kGranuleBytes;

/// Bytes of GPU memory that the mechanism keeps free on the fake GPU.
inline constexpr std::uint64_t kFloor = 512 * kMiB;

class MemoryBench {
 public:
  static constexpr std::uint64_t kArena = 12 * kGiB;

  explicit MemoryBench(DeviceSettings settings = {.host_budget = kGiB},
                       std::uint64_t gpu_bytes = 8 * kGiB)
      : driver(gpu_bytes) {
    CUresult error = CUDA_SUCCESS;
    std::optional<Arena> reserved = Arena::reserve(driver.api(), kArena, &error);
    EXPECT_TRUE(reserved.has_value());
    arena = std::make_unique<Arena>(std::move(*reserved));
    table = std::make_unique<PoolTable>(*arena);
    std::string why;
    auto kernels = DeviceKernels::create(driver.api(), *arena, 0, "", &why);
    EXPECT_NE(kernels, nullptr) << why;
    memory = std::make_unique<DeviceMemory>(driver.api(), *arena, *table, 0, driver.context(),
                                            std::move(kernels), settings);
    handles_at_start = driver.live_handles();
    device_at_start = driver.device_bytes();
  }
  ~MemoryBench() { expect_sound(); }

  const PoolRecord* pool(std::uint64_t bytes, const std::string& group = "kv") {
    const PoolRecord* record = nullptr;
    EXPECT_EQ(memory->allocate(bytes, group, driver.context(), &record), CUDA_SUCCESS);
    return record;
  }

  /// Invariants hold, the driver's rules were kept, and the driver counts what
  /// the mechanism counts (I5).
  void expect_sound() {
    EXPECT_EQ(memory->broken_invariant(), "");
    for (const std::string& what : driver.violations()) ADD_FAILURE() << what;
    const PhysicalBytes held = memory->physical();
    EXPECT_EQ(driver.device_bytes() - device_at_start, held.device + held.zero);
    EXPECT_EQ(driver.host_bytes(), held.host);
  }
  /// Nothing of a pool is left.
  void expect_empty() {
    expect_sound();
    EXPECT_EQ(driver.live_handles(), handles_at_start);
  }

  GranuleIndex granule(const PoolRecord* pool, std::uint32_t offset) const {
    return arena->granule(pool->base) + offset;
  }
  CUdeviceptr address(const PoolRecord* pool, std::uint32_t offset) const {
    return pool->base + offset * kGranuleBytes;
  }
  FaultAnswer fault(const PoolRecord* pool, std::uint32_t offset, std::uint32_t count = 1,
                    bool rows = true) {
    std::vector<AbiRun> wanted;
    for (std::uint32_t i = 0; i < count; ++i) wanted.push_back({granule(pool, offset + i), 1});
    return memory->fault(wanted, rows);
  }
  /// As a guard does: copies what the answer names, then asks on.
  FaultAnswer served(const PoolRecord* pool, std::uint32_t offset, std::uint32_t count = 1,
                     bool rows = true) {
    FaultAnswer answer = fault(pool, offset, count, rows);
    if (answer.kind != AnswerKind::kCopyFirst) return answer;
    for (const AbiCopy& each : answer.copies) copy(each);
    return memory->copied();
  }

  /// One word at either end of the granule, told apart by `value`.
  void write(const PoolRecord* pool, std::uint32_t offset, std::uint64_t value) const {
    auto* words = reinterpret_cast<std::uint64_t*>(address(pool, offset));
    words[0] = value;
    words[kGranuleBytes / 8 - 1] = ~value;
  }
  bool holds(const PoolRecord* pool, std::uint32_t offset, std::uint64_t value) const {
    return word(address(pool, offset)) == value &&
           word(address(pool, offset + 1) - sizeof value) == ~value;
  }
  bool is_zero(const PoolRecord* pool, std::uint32_t offset) const {
    return word(address(pool, offset)) == 0 &&
           word(address(pool, offset + 1) - sizeof(std::uint64_t)) == 0;
  }
  bool writable(const PoolRecord* pool, std::uint32_t offset) const {
    return driver.mapped(address(pool, offset)) == FakeDriver::Mapped::kWritable;
  }
  /// Granules of the extent at an offset.
  std::size_t extent_granules(const PoolRecord* pool, std::uint32_t offset) const {
    return driver.mapping_bytes(address(pool, offset)) / kGranuleBytes;
  }
  PoolFigures figures(const PoolRecord* pool) const {
    for (const PoolFigures& f : memory->pools()) {
      if (f.id == pool->id) return f;
    }
    return {};
  }
  std::vector<ExtentName> resident() const { return memory->extents_in(ExtentState::kResident); }
  std::vector<ExtentName> parked() const { return memory->extents_in(ExtentState::kParked); }
  /// Readers were seen at `tick` to read these rows of the pool.
  void readers_read(const PoolRecord* pool, const std::vector<std::uint32_t>& rows,
                    std::uint64_t tick) const {
    std::vector<std::uint32_t> marks((arena->granules() + 31) / 32, 0);
    for (const std::uint32_t row : rows) {
      marks[granule(pool, row) / 32] |= 1u << granule(pool, row) % 32;
    }
    memory->note_reads(marks, tick);
  }
  /// Parks every unpinned resident extent as it is; how many were parked.
  std::size_t park_all(std::uint64_t tick = 1) { return park(resident(), tick); }
  std::size_t park(const std::vector<ExtentName>& blocks, std::uint64_t tick = 1) {
    std::size_t count = 0;
    for (const ExtentName& name : blocks) {
      PreparedPark prepared;
      if (memory->prepare_park(name, &prepared) != Preparation::kDone) continue;
      copy(prepared);
      if (memory->swap_to_parked(prepared, tick)) {
        if (++count % 256 == 0) memory->release_retired();
      } else {
        memory->cancel_park(prepared);
      }
    }
    memory->release_retired();
    return count;
  }
  /// Parks in blocks, as a release does.
  std::size_t park_merged() { return park(memory->blocks_to_park(resident())); }
  void copy(const PreparedPark& prepared) const {
    for (const AbiCopy& part : prepared.copies()) copy(part);
  }
  void copy(const AbiCopy& copy) const {
    const auto piece = [&](std::uint64_t from, std::uint64_t bytes) {
      std::memcpy(reinterpret_cast<void*>(copy.destination + from),
                  reinterpret_cast<const void*>(copy.source + from), bytes);
    };
    if (copy_every_byte) return piece(0, copy.bytes);
    constexpr std::uint64_t kPage = 4096;
    for (std::uint64_t at = 0; at < copy.bytes; at += kGranuleBytes) {
      piece(at, kPage);
      piece(at + kGranuleBytes - kPage, kPage);
    }
  }
  /// Brings parked blocks back; how many came.
  std::size_t bring_back(const std::vector<ExtentName>& blocks) {
    std::size_t count = 0;
    for (const ExtentName& name : blocks) {
      PreparedPark prepared;
      if (memory->prepare_return(name, 0, &prepared) != Preparation::kDone) continue;
      copy(prepared);
      if (memory->swap_to_resident(prepared)) {
        ++count;
      } else {
        memory->cancel_return(prepared);
      }
    }
    memory->release_retired();
    return count;
  }
  /// The figure of free GPU memory is kept for 50 ms.
  static void forget_free_memory() { std::this_thread::sleep_for(std::chrono::milliseconds(60)); }
  /// What the engine would see.
  std::uint64_t free_memory() const {
    std::size_t free = 0, total = 0;
    EXPECT_EQ(memory->memory_info(&free, &total), CUDA_SUCCESS);
    return free;
  }
  std::vector<Event> events() {
    const std::deque<Event> drained = memory->events().drain();
    return {drained.begin(), drained.end()};
  }

  /// The word at an address. A hole of a swap under way is waited out.
  std::uint64_t word(CUdeviceptr at) const {
    std::uint64_t value = 0;
    for (int i = 0; i < 5000; ++i) {
      if (driver.peek(at, &value)) return value;
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
    ADD_FAILURE() << "I2: an address of a pool stays a hole";
    return 0;
  }

  FakeDriver driver;
  std::unique_ptr<Arena> arena;
  std::unique_ptr<PoolTable> table;
  std::unique_ptr<DeviceMemory> memory;
  /// Otherwise copies move the ends of granules, which is all that write() writes: pages
  /// that nobody touched cost neither time nor memory.
  bool copy_every_byte = false;
  std::size_t handles_at_start = 0;
  std::uint64_t device_at_start = 0;
};

/// Whether the runs name the granule.
inline bool names(const std::vector<AbiRun>& runs, GranuleIndex granule) {
  for (const AbiRun& run : runs) {
    if (granule - run.first < run.count) return true;
  }
  return false;
}

}  // namespace kvshim::vmm::testing
