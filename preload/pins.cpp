// Pins: what stays present for as long as something lives that the gate doesn't see.
#include <mutex>
#include <unordered_map>
#include <vector>

#include "preload/gate.h"
#include "preload/runtime.h"
#include "preload/submission.h"
#include "vmm/context_scope.h"

namespace kvshim::preload {
namespace {

std::mutex pins_mutex;
struct Pinned {
  std::uint64_t pool = 0;
  Access range;
};
auto& pins = *new std::unordered_map<PinId, std::vector<Pinned>>;  // leaked, see escape.cpp
PinId next_pin = 1;

void unpin_all(const Runtime& runtime, std::span<const Pinned> pieces) {
  for (const Pinned& piece : pieces) {
    const vmm::PoolRecord* record = runtime.find(piece.range.address);
    if (record == nullptr || record->id != piece.pool) continue;  // freed, with its pins
    DeviceRuntime* const device = runtime.of(*record);
    if (device == nullptr) continue;  // its context is ending
    // A graph that was pinned may still run: what it writes unasked must not move meanwhile.
    device->memory.comes_in_no_order(device->gate.epoch());
    device->memory.unpin(piece.pool, piece.range.address, piece.range.bytes);
  }
}

}  // namespace

PinId pin(std::span<const Access> ranges, CUresult* result) {
  *result = CUDA_SUCCESS;
  Runtime* runtime = Runtime::get();
  if (runtime == nullptr) return kNoPin;
  std::vector<Pinned> pieces;
  for (const Access& range : ranges) {
    for (const PoolView& pool : pools_in(range.address, range.bytes)) {
      DeviceRuntime* device = runtime->device(pool.device);
      if (device == nullptr) continue;
      Access piece = part_in(pool, range);
      piece.writes = true;
      device->memory.pin(piece.address, piece.bytes);
      pieces.push_back({pool.buffer_id, piece});
      const StreamRef own{device->memory.kernels().stream(), StreamFlavor::kLegacy};
      vmm::ContextScope current(runtime->driver(), device->memory.context());
      *result = run_work(own, std::span(&piece, 1), nullptr, [] { return CUDA_SUCCESS; });
      if (*result == CUDA_SUCCESS) continue;
      unpin_all(*runtime, pieces);
      return kNoPin;
    }
  }
  if (pieces.empty()) return kNoPin;
  std::lock_guard lock(pins_mutex);
  const PinId id = next_pin++;
  pins.emplace(id, std::move(pieces));
  return id;
}

void unpin(PinId pin) noexcept {
  std::vector<Pinned> pieces;
  {
    std::lock_guard lock(pins_mutex);
    const auto it = pins.find(pin);
    if (it == pins.end()) return;
    pieces = std::move(it->second);
    pins.erase(it);
  }
  const Runtime* runtime = Runtime::get();
  if (runtime != nullptr) unpin_all(*runtime, pieces);
}

}  // namespace kvshim::preload
