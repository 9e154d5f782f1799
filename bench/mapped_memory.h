// Addresses and handles that lie there for as long as an object lives, without the shim.
#pragma once

#include "bench/device_work.h"
#include "bench/mapping_calls.h"

namespace kvshim::bench {

/// `total` bytes of addresses.
class Addresses {
 public:
  explicit Addresses(std::size_t total) : total_(total) {
    KVSHIM_BENCH_CHECK(cuMemAddressReserve(&base_, total, 256 * kMebibyte, 0, 0));
  }
  ~Addresses() { cuMemAddressFree(base_, total_); }
  Addresses(const Addresses&) = delete;
  Addresses& operator=(const Addresses&) = delete;
  CUdeviceptr at(std::size_t offset) const { return base_ + offset; }

 private:
  const std::size_t total_;
  CUdeviceptr base_ = 0;
};

/// Handles that stay mapped: what copies go through.
class Mapped {
 public:
  Mapped(const MappingDevice& on, CUmemLocationType location, std::size_t handle_bytes,
         std::size_t total)
      : addresses_(total),
        handle_bytes_(handle_bytes),
        handles_(make_handles(on, location, handle_bytes, total)) {
    MappingTimes times;
    if (handles_.empty()) return;
    KVSHIM_BENCH_CHECK(
        map_joined(on, addresses_.at(0), handle_bytes, handles_, 0, handles_.size(), &times));
  }
  ~Mapped() {
    if (!handles_.empty()) cuMemUnmap(addresses_.at(0), handles_.size() * handle_bytes_);
    release_handles(&handles_);
  }
  Mapped(const Mapped&) = delete;
  Mapped& operator=(const Mapped&) = delete;
  const MappingHandles& handles() const { return handles_; }
  CUdeviceptr at(std::size_t offset) const { return addresses_.at(offset); }

 private:
  Addresses addresses_;
  const std::size_t handle_bytes_;
  MappingHandles handles_;
};

}  // namespace kvshim::bench
