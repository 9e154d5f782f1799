// The state that shim.cpp keeps in the real library, settable by the test.
#include "preload/shim.h"

namespace kvshim::preload {

namespace shim_detail {
std::atomic<bool> active{false};
}

void shim_after_cuinit(CUresult result) noexcept {
  if (result == CUDA_SUCCESS) shim_detail::active.store(true);
}

}  // namespace kvshim::preload

extern "C" __attribute__((visibility("default"))) void kvshim_test_set_active(bool on) {
  kvshim::preload::shim_detail::active.store(on);
}
