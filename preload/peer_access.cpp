#include "preload/peer_access.h"

#include <atomic>
#include <cstdint>
#include <new>

#include "preload/runtime.h"
#include "vmm/context_scope.h"

namespace kvshim::preload {
namespace {

// By device number.
std::atomic<std::uint64_t> with_peers{0};
std::atomic<std::uint64_t> told{0};

}  // namespace

void pools_beside_peers(vmm::DeviceMemory& memory) noexcept {
  const std::uint64_t bit = std::uint64_t{1} << (static_cast<unsigned>(memory.device()) & 63u);
  if ((with_peers.load() & bit) == 0 || (told.fetch_or(bit) & bit) != 0) return;
  try {
    memory.events().push(
        vmm::EventLevel::kWarning,
        "another GPU was given access to the memory of GPU " + std::to_string(memory.device()) +
            ", but its pools are open to their own GPU only: what touches one from elsewhere stops "
            "with an illegal address. If that happens, a rule that leaves such an allocation alone "
            "helps");
  } catch (const std::bad_alloc&) {
    told.fetch_and(~bit);
  }
}

void peer_access_enabled(CUcontext peer) noexcept {
  const Runtime* runtime = Runtime::get();
  if (runtime == nullptr) return;
  CUdevice device = -1;
  {
    vmm::ContextScope current(runtime->driver(), peer);
    if (!current.ok() || runtime->driver().cuCtxGetDevice(&device) != CUDA_SUCCESS) return;
  }
  if (device < 0 || device >= 64) return;
  with_peers.fetch_or(std::uint64_t{1} << static_cast<unsigned>(device));
  if (DeviceRuntime* known = runtime->device(device)) pools_beside_peers(known->memory);
}

}  // namespace kvshim::preload
