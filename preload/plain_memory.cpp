#include "preload/plain_memory.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <mutex>
#include <new>
#include <unordered_map>

#include "preload/real_driver.h"
#include "preload/runtime.h"

namespace kvshim::preload {
namespace {

struct Plain {
  std::size_t bytes = 0;
  CUcontext context = nullptr;
  CUdevice device = 0;
};
struct Counted {
  std::mutex mutex;
  std::unordered_map<CUdeviceptr, Plain> allocations;
  std::array<std::atomic<std::uint64_t>, kMostDevices> bytes{};
  std::array<std::uint64_t, kMostDevices> admitted{};  // that have not ended
};
// Leaked: hooks run until the very end.
std::atomic<Counted*>& counted() {
  static std::atomic<Counted*> all{new Counted};
  return all;
}

void tell_limits(CUdevice device, std::uint64_t bytes) {
  const Runtime* runtime = Runtime::get();
  DeviceRuntime* const known = runtime != nullptr ? runtime->device(device) : nullptr;
  if (known != nullptr) known->memory.limits().other_bytes.store(bytes);
}

bool has_counter(CUdevice device) {
  return device >= 0 && static_cast<std::size_t>(device) < kMostDevices;
}

}  // namespace

bool PlainAdmission::within(std::uint64_t most) noexcept {
  if (!has_counter(device_)) return true;
  Counted& all = *counted().load();
  std::lock_guard lock(all.mutex);
  const auto index = static_cast<std::size_t>(device_);
  const std::uint64_t held = all.bytes[index].load() + all.admitted[index];
  if (held > most || bytes_ > most - held) return false;
  all.admitted[index] += bytes_;
  admitted_ = true;
  return true;
}

PlainAdmission::~PlainAdmission() {
  if (!admitted_) return;
  Plain plain{bytes_, nullptr, device_};
  const bool counts = address_ != 0 && real().cuCtxGetCurrent(&plain.context) == CUDA_SUCCESS;
  Counted& all = *counted().load();
  std::lock_guard lock(all.mutex);
  const auto index = static_cast<std::size_t>(device_);
  all.admitted[index] -= std::min<std::uint64_t>(bytes_, all.admitted[index]);
  if (!counts) return;
  try {
    if (!all.allocations.try_emplace(address_, plain).second) return;
    tell_limits(device_, all.bytes[index].fetch_add(bytes_) + bytes_);
  } catch (const std::bad_alloc&) {
  }
}

void uncount_plain(CUdeviceptr address) noexcept {
  Counted& all = *counted().load();
  std::lock_guard lock(all.mutex);
  const auto it = all.allocations.find(address);
  if (it == all.allocations.end()) return;
  const Plain plain = it->second;
  all.allocations.erase(it);
  const auto device = static_cast<std::size_t>(plain.device);
  tell_limits(plain.device, all.bytes[device].fetch_sub(plain.bytes) - plain.bytes);
}

void change_plain(CUdevice device, std::int64_t change) noexcept {
  if (!has_counter(device)) return;
  Counted& all = *counted().load();
  std::lock_guard lock(all.mutex);
  const auto bytes = static_cast<std::uint64_t>(change);  // modulo 2^64: also less
  tell_limits(device, all.bytes[static_cast<std::size_t>(device)].fetch_add(bytes) + bytes);
}

void uncount_plain_of(CUcontext context) noexcept {
  Counted& all = *counted().load();
  std::lock_guard lock(all.mutex);
  for (auto it = all.allocations.begin(); it != all.allocations.end();) {
    if (it->second.context != context) {
      ++it;
      continue;
    }
    all.bytes[static_cast<std::size_t>(it->second.device)].fetch_sub(it->second.bytes);
    it = all.allocations.erase(it);
  }
}

std::uint64_t plain_bytes(CUdevice device) noexcept {
  if (!has_counter(device)) return 0;
  return counted().load()->bytes[static_cast<std::size_t>(device)].load();
}

std::uint64_t plain_bytes_admitted(CUdevice device) noexcept {
  if (!has_counter(device)) return 0;
  Counted& all = *counted().load();
  std::lock_guard lock(all.mutex);
  const auto index = static_cast<std::size_t>(device);
  return all.bytes[index].load() + all.admitted[index];
}

// The parent's lock may be held by a thread that doesn't exist here.
void forget_plain_after_fork() noexcept {
  if (auto* const fresh = new (std::nothrow) Counted) counted().store(fresh);
}

}  // namespace kvshim::preload
