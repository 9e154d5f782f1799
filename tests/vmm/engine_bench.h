// A whole device at work: memory, gate, fault server, releasing thread, and an
// engine that submits guarded writes to streams of the fake driver.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "tests/vmm/memory_bench.h"
#include "vmm/fault_server.h"
#include "vmm/releaser.h"
#include "vmm/submission_gate.h"

namespace kvshim::vmm::testing {

using namespace std::chrono_literals;

#ifdef KVSHIM_SANITIZED
inline constexpr std::chrono::seconds kPatience{40};
#else
inline constexpr std::chrono::seconds kPatience{10};
#endif

/// Waits until `condition` holds; false after `patience`.
inline bool eventually(const std::function<bool()>& condition,
                       std::chrono::milliseconds patience = kPatience) {
  const auto end = std::chrono::steady_clock::now() + patience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(200us);
  }
  return true;
}

/// Asks the engine's streams, as the real one does.
class StreamsFinished final : public Quiescence {
 public:
  explicit StreamsFinished(const DriverApi& driver) : driver_(driver) {}
  bool finished() override {
    std::lock_guard lock(mutex_);
    CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
    if (driver_.cuThreadExchangeStreamCaptureMode(&mode) == CUDA_SUCCESS) {
      always_relaxed_ = always_relaxed_ && mode == CU_STREAM_CAPTURE_MODE_RELAXED;
      driver_.cuThreadExchangeStreamCaptureMode(&mode);
    }
    for (CUstream stream : streams_) {
      if (driver_.cuStreamQuery(stream) != CUDA_SUCCESS) return false;
    }
    return true;
  }
  void add(CUstream stream) {
    std::lock_guard lock(mutex_);
    streams_.push_back(stream);
  }
  /// Otherwise a query spoils the captures of the program.
  bool always_relaxed() const {
    std::lock_guard lock(mutex_);
    return always_relaxed_;
  }

 private:
  bool always_relaxed_ = true;
  const DriverApi& driver_;
  mutable std::mutex mutex_;
  std::vector<CUstream> streams_;
};

class EngineBench : public MemoryBench {
 public:
  explicit EngineBench(DeviceSettings settings = {.host_budget = kGiB},
                       std::uint64_t gpu_bytes = 8 * kGiB)
      : MemoryBench(settings, gpu_bytes),
        server(driver.api(), *memory, gate),
        quiescence(driver.api()),
        stream(new_stream()) {
    server.start();
  }
  ~EngineBench() {
    if (releaser != nullptr) releaser->stop();
    for (CUstream one : streams_) EXPECT_TRUE(driver.drain(one));
    server.stop();
    EXPECT_TRUE(quiescence.always_relaxed());
    if (!::testing::Test::HasFailure()) expect_bits_right();
  }

  /// Starts the releasing thread.
  void release_when_idle(ReleaseSettings settings) {
    releaser =
        std::make_unique<Releaser>(driver.api(), *memory, gate, quiescence, server, settings);
    releaser->start();
  }
  CUstream new_stream() {
    const CUstream made = driver.make_stream();
    quiescence.add(made);
    std::lock_guard lock(streams_mutex_);
    streams_.push_back(made);
    return made;
  }

  /// A writer of one slot per granule: slot s is granule s of every pool given.
  LinearWrite slots_of(std::span<const std::int64_t> slots,
                       std::span<const PoolRecord* const> pools) const {
    LinearWrite write{};
    write.slots = reinterpret_cast<std::uint64_t>(slots.data());
    write.slot_bytes = 8;
    write.count = static_cast<std::uint32_t>(slots.size());
    write.block = 1;
    for (const PoolRecord* pool : pools) {
      write.destination[write.destinations++] = {pool->base,    kGranuleBytes,
                                                 kGranuleBytes, kGranuleBytes,
                                                 pool->base,    pool->base + pool->mapped_bytes};
    }
    return write;
  }

  /// Work in stream order, as the gate submits it: a guard, then the work.
  void submit(CUstream on, const std::function<void()>& guard, std::vector<Range> touches,
              std::function<void()> work) {
    if (releaser != nullptr) releaser->restore_before_first_work();
    gate.enter();
    if (guard) guard();
    driver.enqueue(on, std::move(touches), std::move(work));
    gate.leave();
  }
  /// Guarded writes of `value` to granules of a pool.
  void write_granules(const PoolRecord* pool, const std::vector<std::int64_t>& slots,
                      std::uint64_t value) {
    write_granules_on(stream, pool, slots, value);
  }
  void write_granules_on(CUstream on, const PoolRecord* pool,
                         const std::vector<std::int64_t>& slots, std::uint64_t value) {
    const auto kept = std::make_shared<std::vector<std::int64_t>>(slots);  // as the work does
    std::vector<Range> touches;
    for (const std::int64_t slot : slots) {
      const CUdeviceptr at = address(pool, static_cast<std::uint32_t>(slot));
      touches.push_back({at, at + kGranuleBytes});
    }
    submit(
        on,
        [&] {
          const PoolRecord* const pools[] = {pool};
          EXPECT_EQ(memory->kernels().launch_linear_guard(on, slots_of(*kept, pools)),
                    CUDA_SUCCESS);
        },
        std::move(touches),
        [this, pool, kept, value] {
          for (const std::int64_t slot : *kept) {
            const auto offset = static_cast<std::uint32_t>(slot);
            if (writable(pool, offset)) {
              write(pool, offset, value);
            } else {
              ADD_FAILURE() << "I1: a write met the absent granule " << slot;
            }
          }
        });
  }

  bool bit(GranuleIndex granule) const {
    const std::uint32_t* word = memory->kernels().bitmap() + granule / 32;
    return (std::atomic_ref(const_cast<std::uint32_t&>(*word)).load() >> granule % 32 & 1u) != 0;
  }
  /// I9, and that guards left their scratch clean.
  void expect_bits_right() const {
    const std::size_t words = (arena->granules() + 31) / 32;
    for (GranuleIndex g = 0; g < arena->granules(); ++g) {
      if (bit(g) && table->find(arena->address(g)) != nullptr) {
        EXPECT_EQ(driver.mapped(arena->address(g)), FakeDriver::Mapped::kWritable)
            << "I9: granule " << g;
      }
    }
    for (std::size_t i = 0; i < words; ++i) {
      EXPECT_EQ(memory->kernels().bitmap()[words + i], 0u) << "requested bits left";
    }
  }
  /// Requests of guards. The server counts one after it has answered it.
  std::uint64_t requests() const {
    const std::atomic_ref answered(memory->kernels().channel()->answer);
    const auto& statistics = memory->statistics();
    EXPECT_TRUE(eventually([&] {
      return statistics.faults.count() + statistics.asked_again.load() >= answered.load();
    }));
    return statistics.faults.count();
  }

  SubmissionGate gate;
  FaultServer server;
  StreamsFinished quiescence;
  std::unique_ptr<Releaser> releaser;

 private:
  std::mutex streams_mutex_;
  std::vector<CUstream> streams_;

 public:
  CUstream stream;
};

}  // namespace kvshim::vmm::testing
