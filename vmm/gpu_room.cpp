#include "vmm/gpu_room.h"

#include "vmm/stopwatch.h"

namespace kvshim::vmm {

// cuMemGetInfo takes about 18 us, a tenth of a fault: the figure is kept for
// 50 ms and reduced by what is taken; near the floor for 1 ms, since a full GPU
// is looked at for each extent of a row.
void GpuRoom::read(std::uint64_t bytes) {
  constexpr std::uint64_t kGoodFor = 50'000;
  constexpr std::uint64_t kNear = std::uint64_t{1} << 30;
  constexpr std::uint64_t kGoodForNear = 1'000;
  const std::uint64_t now = steady_microseconds();
  const bool near = free_ < floor_ + bytes + kNear;
  if (read_at_ != 0 && now - read_at_ <= (near ? kGoodForNear : kGoodFor)) return;
  std::size_t free = 0, total = 0;
  if (driver_.cuMemGetInfo_v2(&free, &total) == CUDA_SUCCESS) {
    free_ = free;
    read_at_ = now;
  } else {
    free_ = UINT64_MAX / 2;  // let create decide
    read_at_ = 0;
  }
}

bool GpuRoom::within_limit(std::uint64_t bytes) const {
  const std::uint64_t limit = limits_.limit.load(std::memory_order_relaxed);
  if (limit == 0) return true;
  const PhysicalBytes& held = mapper_.physical();
  return held.device + held.zero + limits_.other_bytes.load(std::memory_order_relaxed) + bytes <=
         limit;
}

bool GpuRoom::take(std::uint64_t bytes) {
  if (!within_limit(bytes)) return false;
  read(bytes);
  if (!leaves(bytes)) return false;
  free_ -= bytes;
  return true;
}

bool GpuRoom::lacks(std::uint64_t bytes, std::uint64_t set_apart) {
  if (bytes == 0 || !within_limit(bytes)) return false;
  read(bytes + set_apart);
  return !leaves(bytes + set_apart);
}

bool GpuRoom::neighbours_may_make(std::uint64_t bytes) {
  return neighbours_ != nullptr && neighbours_->anyone_else() && lacks(bytes, 0);
}

}  // namespace kvshim::vmm
