#include "preload/nvml_view.h"

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "preload/membership.h"
#include "preload/private_view.h"
#include "preload/runtime.h"
#include "preload/shim.h"

namespace kvshim::preload {
namespace {

// An NVML that reaches its own functions through the global scope meets our wrappers
// again: what they are told inside must be the truth.
thread_local constinit bool asking = false;

struct Asking {
  Asking() { asking = true; }
  ~Asking() { asking = false; }
};

// NVML writes GPU- before a GPU's UUID and MIG- before an instance's; CUDA has no prefix,
// and segment::uuid_text() gives GPU- to both.
std::string_view without_prefix(std::string_view uuid) {
  const std::size_t dash = uuid.find('-');
  return dash == std::string_view::npos ? uuid : uuid.substr(dash + 1);
}

/// CUDA's number of the GPU in this process; none when CUDA doesn't see it.
std::optional<CUdevice> cuda_device(NvmlDevice device) {
  std::array<char, 96> uuid{};
  const auto ask = real_nvml().nvmlDeviceGetUUID;
  if (ask == nullptr || ask(device, uuid.data(), uuid.size()) != kNvmlSuccess) return {};
  uuid.back() = '\0';
  for (CUdevice index = 0;; ++index) {
    const std::string known = uuid_of(index);
    if (known.empty()) return {};
    if (without_prefix(known) == without_prefix(uuid.data())) return index;
  }
}

void see(const ViewDifference& difference, NvmlMemory* memory) {
  const MemorySeen seen = private_view({memory->free, memory->total}, difference);
  memory->total = seen.total;
  memory->free = seen.free;
  memory->used = seen.total - seen.free;
}

// What the driver reserves for itself is not the process's: within a limit, nothing is.
void see(const ViewDifference& difference, NvmlMemoryV2* memory) {
  const std::uint64_t usable = memory->total - std::min(memory->total, memory->reserved);
  const MemorySeen seen = private_view({memory->free, usable}, difference);
  if (difference.limit != 0 && difference.limit < memory->total) {
    memory->reserved = 0;
    memory->total = seen.total;
  }
  memory->free = seen.free;
  memory->used = memory->total - memory->reserved - seen.free;
}

}  // namespace

template <class Memory>
int answer_nvml(int (*function)(NvmlDevice, Memory*), NvmlDevice device, Memory* memory) noexcept {
  const Runtime* const runtime = asking || !shim_active() ? nullptr : Runtime::get();
  if (runtime == nullptr || memory == nullptr ||
      runtime->options().memory_view == config::MemoryView::kPhysical) {
    return function(device, memory);
  }
  const Asking scope;
  const Memory asked = *memory;
  int result = function(device, memory);
  if (result != kNvmlSuccess) return result;
  try {
    const std::optional<CUdevice> index = cuda_device(device);
    if (!index) return result;
    // Pools grow and shrink while NVML answers: what it counted must be known.
    constexpr int kTries = 4;
    ViewDifference difference = view_difference(*runtime, *index);
    for (int i = 0; i < kTries && !difference.nothing(); ++i) {
      Memory again = asked;
      if (function(device, &again) != kNvmlSuccess) return result;
      *memory = again;
      const ViewDifference now = view_difference(*runtime, *index);
      if (std::exchange(difference, now) == now) break;
    }
    if (!difference.nothing()) see(difference, memory);
  } catch (...) {  // no memory for it: NVML's own word
  }
  return result;
}

#define KVSHIM_NVML_ANSWERED(name, memory, note) \
  template int answer_nvml<memory>(int (*)(NvmlDevice, memory*), NvmlDevice, memory*) noexcept;
#include "preload/nvml_entry_points.def"

}  // namespace kvshim::preload
