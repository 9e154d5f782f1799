#include "vmm/copy_steps.h"

#include <algorithm>

namespace kvshim::vmm {

bool CopySteps::submit(std::span<const AbiCopy> copies) {
  for (const AbiCopy& copy : copies) {
    if (waits_ && &copy != copies.data()) {
      const std::uint32_t wait = submitted_.load() + 1;
      waits_ = driver_.cuStreamWaitValue32_v2(stream_, word_on_device_, wait,
                                              CU_STREAM_WAIT_VALUE_GEQ) == CUDA_SUCCESS;
      if (waits_) submitted_.store(wait);
    }
    if (!copy_now(copy)) return false;
  }
  return true;
}

bool CopySteps::submit_at_once(std::span<const AbiCopy> copies) {
  return std::all_of(copies.begin(), copies.end(),
                     [this](const AbiCopy& copy) { return copy_now(copy); });
}

bool CopySteps::copy_now(const AbiCopy& copy) const {
  return driver_.cuMemcpyDtoDAsync_v2(copy.destination, copy.source, copy.bytes, stream_) ==
         CUDA_SUCCESS;
}

void CopySteps::let_next_go() noexcept {
  std::uint32_t ended = word_.load();
  while (is_before(ended, submitted_.load()) && !word_.compare_exchange_weak(ended, ended + 1)) {
    continue;
  }
}

void CopySteps::let_all_go() noexcept {
  const std::uint32_t all = submitted_.load();
  std::uint32_t ended = word_.load();
  while (is_before(ended, all) && !word_.compare_exchange_weak(ended, all)) continue;
}

void CopySteps::let_go_what_was_forgotten() noexcept {
  const std::uint32_t submitted = submitted_.load();
  if (submitted == looked_at_) let_all_go();
  looked_at_ = submitted;
}

}  // namespace kvshim::vmm
