// Which blocks readers read: when it is to be found out, and the marks put in front.
#include "preload/gate.h"
#include "preload/runtime.h"
#include "preload/submission.h"

namespace kvshim::preload {
namespace {

vmm::DeviceMemory* memory_of(CUdevice index) noexcept {
  const Runtime* runtime = Runtime::get();
  DeviceRuntime* device = runtime != nullptr ? runtime->device(index) : nullptr;
  return device != nullptr && device->memory.read_marks().followed() ? &device->memory : nullptr;
}

}  // namespace

bool wants_read(StreamRef stream, const PoolView& pool) noexcept {
  vmm::DeviceMemory* const memory = memory_of(pool.device);
  return memory != nullptr && (memory->read_marks().asked() != 0 || is_capturing(stream)) &&
         memory->reads_are_marked(pool.buffer_id);
}

void read_unseen(CUdeviceptr address, bool in_graph) noexcept {
  const Runtime* runtime = Runtime::get();
  const vmm::PoolRecord* record = runtime != nullptr ? runtime->find(address) : nullptr;
  if (record == nullptr) return;
  if (vmm::DeviceMemory* const memory = memory_of(record->device)) {
    memory->read_marks().reads_unseen(memory->tick(), in_graph);
  }
}

void read_nodes_change() noexcept {
  if (const Runtime* runtime = Runtime::get()) {
    for (DeviceRuntime* device : runtime->devices()) device->memory.read_marks().nodes_change();
  }
}

void mark_in_front(DeviceRuntime& device, StreamRef stream, const vmm::TableRead& read,
                   const StreamOrder::Place& place) {
  // In another context the table can't be read, and on another GPU marks mean nothing.
  const vmm::PoolRecord* record = Runtime::get()->find(read.part[0].pool_begin);
  vmm::ReadMarks& marks = device.memory.read_marks();
  if (record == nullptr || record->memory != &device.memory ||
      place.context != device.memory.context()) {
    return marks.reads_unseen(device.memory.tick(), place.captured);
  }
  const std::uint32_t asked = place.captured ? 0 : marks.asked();
  if (place.captured) {
    marks.captured();
  } else if (asked == 0) {
    return;
  }
  device.memory.kernels().launch_mark(stream.explicit_handle(), read, asked);
}

}  // namespace kvshim::preload
