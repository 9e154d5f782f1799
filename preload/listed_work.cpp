// Work in several streams that one driver call starts.
#include <algorithm>
#include <memory>
#include <vector>

#include "preload/gate.h"
#include "preload/runtime.h"
#include "preload/submission.h"

namespace kvshim::preload {
namespace {

/// A piece, as far as it touches one device's pools.
struct Piece {
  StreamRef stream;
  Touched touched;
  const vmm::LinearWrite* linear = nullptr;
};

/// A device and its pieces, in the order of the list.
struct DeviceWork {
  DeviceRuntime* device = nullptr;
  std::vector<Piece> pieces;
};

// The linear form belongs to the device of its pool.
const vmm::LinearWrite* linear_of(const Runtime& runtime, const DeviceRuntime& device,
                                  const ListedWork& work) {
  if (!work.linear || work.linear->destinations == 0) return nullptr;
  const vmm::PoolRecord* record = runtime.find(work.linear->destination[0].pool_begin);
  return record != nullptr && runtime.of(*record) == &device ? &*work.linear : nullptr;
}

// In the order of the devices' numbers, in which all threads enter their gates.
std::vector<DeviceWork> by_device(Runtime& runtime, std::span<const ListedWork> list) {
  std::vector<DeviceWork> all;
  for (const ListedWork& work : list) {
    for (Touched& touched : preload::by_device(runtime, work.accesses)) {
      DeviceRuntime* const device = touched.device;
      auto it = std::find_if(all.begin(), all.end(),
                             [&](const DeviceWork& one) { return one.device == device; });
      if (it == all.end()) it = all.insert(all.end(), DeviceWork{device, {}});
      it->pieces.push_back({work.stream, std::move(touched), linear_of(runtime, *device, work)});
    }
  }
  std::sort(all.begin(), all.end(), [](const DeviceWork& a, const DeviceWork& b) {
    return a.device->memory.device() < b.device->memory.device();
  });
  return all;
}

std::vector<StreamRef> streams_of(const DeviceWork& work) {
  std::vector<StreamRef> streams;
  for (const Piece& piece : work.pieces) streams.push_back(piece.stream);
  return streams;
}

CUresult guards_in_front(const DeviceWork& work) {
  auto guard = vmm::GuardPlace::kFirst;
  for (const Piece& piece : work.pieces) {
    if (!piece.touched.read_anywhere.empty()) {
      work.device->memory.reads_anywhere(piece.touched.read_anywhere, work.device->gate.epoch());
    }
    StreamOrder::Place place;
    const CUresult result = put_in_front(*work.device, piece.stream, piece.touched.written,
                                         piece.linear, &place, guard);
    guard = vmm::GuardPlace::kBehindAnother;
    work.device->streams.submitted(piece.stream, place);
    if (result != CUDA_SUCCESS) return result;
  }
  return work.device->streams.order_together(streams_of(work), Submission::thread_is_alone());
}

}  // namespace

CUresult run_list(std::span<const ListedWork> list, SubmitRef submit) {
  Runtime* const runtime = Runtime::get();
  if (runtime == nullptr) return submit();
  std::vector<DeviceWork> all = by_device(*runtime, list);
  std::vector<std::unique_ptr<Submission>> inside;
  for (const DeviceWork& work : all) inside.push_back(std::make_unique<Submission>(*work.device));
  for (const DeviceWork& work : all) {
    if (const CUresult result = guards_in_front(work); result != CUDA_SUCCESS) return result;
  }
  const CUresult result = submit();
  for (const DeviceWork& work : all) {
    work.device->streams.submitted_together(streams_of(work), Submission::thread_is_alone());
  }
  return result;
}

}  // namespace kvshim::preload
