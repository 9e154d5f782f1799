// A driver of functions with bookkeeping in host memory, for tests of vmm/.
// Addresses are real: a reservation is inaccessible memory, a handle a range of
// one memory file, a mapping shares it, so that aliases, read-only pages and
// contents are as on a GPU. Streams are threads; the kernels are the guards' own
// source, run on the host. Every rule of the driver that the mechanism must keep
// is checked; a breach is noted and fails the test (see violations()).
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "vmm/driver.h"
#include "vmm/units.h"

namespace kvshim::vmm::testing {

/// One value for each driver function.
enum class Call : unsigned {
#define KVSHIM_CALL(name) name,
  KVSHIM_VMM_DRIVER_FUNCTIONS(KVSHIM_CALL)
#undef KVSHIM_CALL
      kCount
};
inline constexpr std::size_t kCalls = static_cast<std::size_t>(Call::kCount);

/// Half-open range of addresses.
struct Range {
  std::uint64_t begin = 0, end = 0;
  bool meets(std::uint64_t from, std::uint64_t to) const { return begin < to && from < end; }
};

/// One at a time in a process: driver functions have no object of their own.
class FakeDriver {
 public:
  explicit FakeDriver(std::uint64_t gpu_bytes = std::uint64_t{8} << 30);
  ~FakeDriver();
  FakeDriver(const FakeDriver&) = delete;
  FakeDriver& operator=(const FakeDriver&) = delete;

  const DriverApi& api() const { return api_; }
  CUcontext context() { return reinterpret_cast<CUcontext>(this); }

  // --- failures --------------------------------------------------------------
  /// The n-th call from now on (1: the next) and the `times - 1` after it fail.
  void fail(Call call, std::uint64_t nth, CUresult error, std::uint64_t times = 1);
  void fail_nothing();
  std::uint64_t calls(Call call) const { return counts_[index(call)].load(); }
  /// Memory that others hold on the GPU: plain allocations, other processes.
  void take_gpu_memory(std::uint64_t bytes);
  void give_gpu_memory(std::uint64_t bytes) { take_gpu_memory(0 - bytes); }
  /// How long creating a host handle takes (pinning).
  std::atomic<unsigned> host_create_microseconds{0};

  // --- work ------------------------------------------------------------------
  /// Queues `work`, which touches `ranges`, on a stream.
  void enqueue(CUstream stream, std::vector<Range> ranges, std::function<void()> work,
               bool guard = false);
  CUstream make_stream();
  /// While held, a stream executes nothing (what runs goes on).
  void hold(CUstream stream, bool held);
  /// Waits until a stream's queue is empty; false after ten seconds.
  bool drain(CUstream stream);

  // --- views -----------------------------------------------------------------
  /// Bytes of live handles by place. A released handle lives while it is mapped.
  std::uint64_t device_bytes() const;
  std::uint64_t host_bytes() const;
  /// In all mappings of host memory: twice what is mapped twice.
  std::uint64_t host_mapped_bytes() const;
  std::uint64_t gpu_free() const;
  std::size_t live_handles() const;
  std::size_t reservations() const;
  std::size_t pinned_bytes() const;
  enum class Mapped { kHole, kReadOnly, kWritable };
  Mapped mapped(CUdeviceptr address) const;
  /// What the memory mapped at an address holds; false for a hole. Safe beside swaps.
  bool peek(CUdeviceptr address, std::uint64_t* word) const;
  /// The size of the mapping at an address; 0 for a hole.
  std::size_t mapping_bytes(CUdeviceptr address) const;
  /// Breaches of the driver's rules since the last call.
  std::vector<std::string> violations();

 private:
  struct Handle {
    std::uint64_t offset = 0, bytes = 0;
    bool host = false, released = false;
    unsigned mappings = 0;
  };
  struct Mapping {
    std::uint64_t bytes = 0;
    CUmemGenericAllocationHandle handle = 0;
    bool accessible = false, writable = false;
  };
  struct Operation {
    std::vector<Range> ranges;
    std::function<void()> work;
    bool guard = false;  // what follows can't start before it was served
  };
  struct Stream {
    std::mutex mutex;
    std::condition_variable changed;
    std::deque<Operation> queue;  // the running one stays in front
    bool held = false, ending = false;
    std::thread worker;
  };
  static constexpr std::size_t index(Call call) { return static_cast<std::size_t>(call); }
  static FakeDriver& self();
  CUresult injected(Call call);
  void violation(std::string what);  // mutex_ held
  void run(Stream& stream);
  void check_no_work(std::uint64_t begin, std::uint64_t end, const char* what);
  void forget(std::map<CUmemGenericAllocationHandle, Handle>::iterator handle);
  std::uint64_t used(bool host) const;
  std::map<std::uint64_t, Mapping>::const_iterator mapping_at(std::uint64_t address) const;
  CUresult unmap(std::uint64_t begin, std::uint64_t bytes);
  static void make_current(CUcontext context);  // the calling thread's only one; or none
  void fill_api();
  void fill_memory_api();
  void fill_work_api();
  // The driver functions.
  struct MemoryFunctions;
  struct WorkFunctions;
  struct Unused;

  DriverApi api_;
  std::uint64_t gpu_bytes_;
  std::uint64_t others_ = 0;
  int file_ = -1;
  std::uint64_t file_end_ = 0;
  mutable std::mutex mutex_;
  std::map<std::uint64_t, std::uint64_t> reservations_;  // base -> bytes
  std::map<CUmemGenericAllocationHandle, Handle> handles_;
  std::map<std::uint64_t, Mapping> mappings_;
  std::multimap<std::uint64_t, std::uint64_t> free_file_;  // bytes -> offset
  CUmemGenericAllocationHandle next_handle_ = 1;
  std::map<void*, std::size_t> pinned_;
  std::vector<std::string> violations_;
  std::vector<std::unique_ptr<Stream>> streams_;
  struct Failure {
    std::atomic<std::uint64_t> from{0}, to{0};
    std::atomic<int> error{0};
  };
  std::atomic<std::uint64_t> counts_[kCalls]{};
  Failure failures_[kCalls]{};
};

}  // namespace kvshim::vmm::testing
