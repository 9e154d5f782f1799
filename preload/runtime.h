// The composition: what the shim consists of in an active process.
#pragma once

#include <cuda.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "config/loader.h"
#include "heuristics/kernel_catalog.h"
#include "heuristics/profiles.h"
#include "heuristics/recognizer.h"
#include "preload/stream_order.h"
#include "vmm/arena.h"
#include "vmm/device_memory.h"
#include "vmm/fault_server.h"
#include "vmm/pool_table.h"
#include "vmm/releaser.h"
#include "vmm/submission_gate.h"

namespace kvshim::preload {

/// Of one process. What stands in tables by device has room for so many.
inline constexpr std::size_t kMostDevices = 64;

/// Everything of one device. Made at its first pool; its threads end when its
/// context does.
struct DeviceRuntime {
  DeviceRuntime(const vmm::DriverApi& driver, vmm::Arena& arena, vmm::PoolTable& table,
                CUdevice device, CUcontext context, std::unique_ptr<vmm::DeviceKernels> kernels,
                const vmm::DeviceSettings& device_settings,
                const vmm::ReleaseSettings& release_settings, std::uint64_t watchdog_milliseconds);
  void start_threads();
  void stop_threads();
  /// Until all its work has finished, beside a capture, which lets no thread synchronise; or ended
  /// with an error, which is given. NOT_READY: some of it can't be asked about (of a stream that
  /// was destroyed). The context must be current.
  CUresult wait_beside_captures(const vmm::DriverApi& driver);

  vmm::DeviceMemory memory;
  vmm::SubmissionGate gate;
  StreamOrder streams;
  vmm::FaultServer server;
  vmm::GuardWatchdog watchdog;
  vmm::Releaser releaser;
  /// Order of submissions across threads (see gate.cpp).
  std::mutex submission;
};

/// Leaked on purpose: threads and exit handlers may use it until the very end.
class Runtime {
 public:
  /// Null before activation, after fork in the child, and when disabled.
  static Runtime* get() noexcept { return instance_.load(std::memory_order_acquire); }
  /// REQUIRES: cuInit succeeded in this process.
  Runtime(config::Loaded configuration, heuristics::ProcessIdentity identity);
  static void publish(Runtime* runtime) noexcept { instance_.store(runtime); }

  const vmm::DriverApi& driver() const { return driver_; }
  const config::Options& options() const { return configuration_.options; }
  const config::Loaded& configuration() const { return configuration_; }
  heuristics::Recognizer& recognizer() { return *recognizer_; }
  const heuristics::KernelCatalog& catalog() const { return *catalog_; }

  /// The device of a pool; null while its context ends, which another thread may begin at any
  /// moment.
  DeviceRuntime* of(const vmm::PoolRecord& record) const {
    return devices_[static_cast<std::size_t>(record.device)].load(std::memory_order_acquire);
  }
  const vmm::PoolRecord* find(CUdeviceptr address) const {
    const vmm::PoolTable* table = table_.load(std::memory_order_acquire);
    return table != nullptr ? table->find(address) : nullptr;
  }
  /// All devices that have pools or had some.
  std::vector<DeviceRuntime*> devices() const;
  /// The same, and those whose context has ended (for figures and messages).
  std::vector<DeviceRuntime*> devices_ever() const;
  DeviceRuntime* device(CUdevice index) const {
    return index >= 0 && static_cast<std::size_t>(index) < kMostDevices
               ? devices_[static_cast<std::size_t>(index)].load(std::memory_order_acquire)
               : nullptr;
  }
  /// The device of the current context, made if need be. Null with `*why` when
  /// the device can't carry pools (said once in the log by the caller).
  DeviceRuntime* device_for_pool(CUcontext context, std::string* why);
  /// Before a context is destroyed: frees what its end takes with it; the device starts anew
  /// afterwards. Waits for the context's work, as the destruction does.
  void context_ends(CUcontext context);
  /// After the destruction: releases what no kernel can touch any more. Any thread, whatever
  /// context is current.
  void context_ended(CUcontext context);

  std::size_t pools_made() const { return pools_made_.load(); }
  void count_pool() { pools_made_.fetch_add(1); }
  /// Why each live pool became one, by pool id (status file).
  void remember_reason(std::uint64_t pool, std::string reason);
  std::string reason_of(std::uint64_t pool) const;

 private:
  bool make_arena(std::string* why);
  bool begins_to_end(DeviceRuntime& device);
  void end(DeviceRuntime& device);
  static std::atomic<Runtime*> instance_;
  vmm::DriverApi driver_;
  config::Loaded configuration_;
  heuristics::Profiles profiles_;
  std::unique_ptr<heuristics::KernelCatalog> catalog_;
  std::unique_ptr<heuristics::Recognizer> recognizer_;
  mutable std::mutex making_;
  std::unordered_set<const DeviceRuntime*> ending_;
  std::vector<DeviceRuntime*> ended_;
  bool threads_failed_ = false;
  std::unique_ptr<vmm::Arena> arena_;
  std::atomic<const vmm::PoolTable*> table_{nullptr};
  vmm::PoolTable* own_table_ = nullptr;
  std::array<std::atomic<DeviceRuntime*>, kMostDevices> devices_{};
  std::atomic<std::size_t> pools_made_{0};
  mutable std::mutex reasons_mutex_;
  std::unordered_map<std::uint64_t, std::string> reasons_;
};

}  // namespace kvshim::preload
