#include "bench/held_copies.h"

#include <atomic>
#include <chrono>
#include <cstdio>
#include <functional>
#include <thread>
#include <utility>
#include <vector>

#include "bench/device_work.h"
#include "bench/mapping_calls.h"
#include "bench/occupied_gpu.h"

namespace kvshim::bench {
namespace {

using namespace std::chrono_literals;

constexpr std::size_t kBytes = kMebibyte;
constexpr std::chrono::milliseconds kLateness{30};  // until the copy is in its wait, surely

/// Holds a stream from construction until open().
class Gate {
 public:
  explicit Gate(CUstream stream) {
    KVSHIM_BENCH_CHECK(cuLaunchHostFunc(
        stream,
        [](void* open) {
          while (!static_cast<std::atomic<bool>*>(open)->load()) std::this_thread::sleep_for(1ms);
        },
        &open_));
  }
  void open() { open_ = true; }

 private:
  std::atomic<bool> open_{false};
};

struct Copy {
  const char* name;
  bool legacy;  // the stream that is held, and in which it is
  std::function<CUresult()> call;
};

struct Call {
  const char* name;
  std::function<CUresult()> call;
};

class HeldCopies {
 public:
  HeldCopies(const MappingDevice& on, bool simulator)
      : on_(on), patience_(simulator ? 40ms : 200ms), pageable_(kBytes) {
    KVSHIM_BENCH_CHECK(
        cuModuleGetFunction(&nothing_, load_bench_kernels(), "kvshim_bench_nothing"));
    for (CUstream* stream : {&stream_, &held_, &captured_}) {
      KVSHIM_BENCH_CHECK(cuStreamCreate(stream, CU_STREAM_NON_BLOCKING));
    }
    for (CUevent* event : {&event_, &ended_, &pending_}) {
      KVSHIM_BENCH_CHECK(cuEventCreate(event, CU_EVENT_DISABLE_TIMING));
    }
    for (CUdeviceptr* memory : {&from_, &to_}) {
      KVSHIM_BENCH_CHECK(cuMemAlloc(memory, kBytes));
      KVSHIM_BENCH_CHECK(cuMemsetD8Async(*memory, 1, kBytes, stream_));  // a value is waited for
    }
    KVSHIM_BENCH_CHECK(cuMemHostAlloc(&pinned_, kBytes, 0));
    KVSHIM_BENCH_CHECK(cuMemAddressReserve(&spare_, kGranuleBytes, 0, 0, 0));
    launch(stream_);  // its first launch loads it
    KVSHIM_BENCH_CHECK(cuEventRecord(ended_, stream_));
    KVSHIM_BENCH_CHECK(cuStreamSynchronize(stream_));
    list();
  }

  std::string measure() {
    for (const Copy& copy : copies_) {
      for (const Call& call : calls_) beside(copy, call);
    }
    return table_;
  }

 private:
  CUresult launch(CUstream stream) {
    return cuLaunchKernel(nothing_, 1, 1, 1, 1, 1, 1, 0, stream, nullptr, nullptr);
  }
  CUresult map_once() {
    MappingTimes untold;
    MappingHandles handle =
        make_handles(on_, CU_MEM_LOCATION_TYPE_DEVICE, kGranuleBytes, kGranuleBytes);
    if (handle.empty()) return CUDA_ERROR_OUT_OF_MEMORY;
    CUresult result = map_joined(on_, spare_, kGranuleBytes, handle, 0, 1, &untold);
    if (result == CUDA_SUCCESS) result = unmap_timed(spare_, kGranuleBytes, &untold);
    release_handles(&handle);
    return result;
  }

  void list() {
    copies_ = {
        {"cuMemcpyDtoH, pageable", true,
         [this] { return cuMemcpyDtoH(pageable_.data(), from_, kBytes); }},
        {"cuMemcpyDtoH, pinned", true, [this] { return cuMemcpyDtoH(pinned_, from_, kBytes); }},
        {"cuMemcpyHtoD, pageable", true,
         [this] { return cuMemcpyHtoD(from_, pageable_.data(), kBytes); }},
        {"cuMemcpyDtoHAsync, pageable", false,
         [this] { return cuMemcpyDtoHAsync(pageable_.data(), from_, kBytes, held_); }},
        {"cuMemcpyHtoDAsync, pageable", false,
         [this] { return cuMemcpyHtoDAsync(from_, pageable_.data(), kBytes, held_); }},
    };
    calls_ = {
        {"launch", [this] { return launch(stream_); }},
        {"launch, captured", [this] { return launch(captured_); }},
        {"fill", [this] { return cuMemsetD8Async(to_, 2, kBytes, stream_); }},
        {"copy from GPU to GPU", [this] { return cuMemcpyDtoDAsync(to_, from_, kBytes, stream_); }},
        {"copy to pinned memory",
         [this] { return cuMemcpyDtoHAsync(pinned_, to_, kBytes, stream_); }},
        {"event record", [this] { return cuEventRecord(event_, stream_); }},
        {"event record, legacy stream", [this] { return cuEventRecord(event_, nullptr); }},
        {"wait for an event that has come",
         [this] { return cuStreamWaitEvent(stream_, ended_, 0); }},
        {"wait for an event of the held stream",
         [this] { return cuStreamWaitEvent(stream_, pending_, 0); }},
        {"wait for a value", [this] { return cuStreamWaitValue32(stream_, to_, 0, 0); }},
        {"event query", [this] { return cuEventQuery(ended_); }},
        {"stream query",
         [this] {
           const CUresult state = cuStreamQuery(stream_);
           return state == CUDA_ERROR_NOT_READY ? CUDA_SUCCESS : state;
         }},
        {"memory info",
         [] {
           std::size_t free = 0, total = 0;
           return cuMemGetInfo(&free, &total);
         }},
        {"pointer attribute",
         [this] {
           unsigned type = 0;
           return cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, to_);
         }},
        {"create, map, open, unmap, release", [this] { return map_once(); }},
        {"event create and destroy",
         [] {
           CUevent event = nullptr;
           const CUresult result = cuEventCreate(&event, CU_EVENT_DISABLE_TIMING);
           if (result == CUDA_SUCCESS) cuEventDestroy(event);
           return result;
         }},
    };
  }

  void beside(const Copy& copy, const Call& call) {
    KVSHIM_BENCH_CHECK(cuStreamBeginCapture(captured_, CU_STREAM_CAPTURE_MODE_RELAXED));
    CUstream behind = copy.legacy ? nullptr : held_;
    Gate gate(behind);
    KVSHIM_BENCH_CHECK(cuEventRecord(pending_, behind));
    std::atomic<bool> copied{false}, begun{false}, came_back{false};
    CUresult result = CUDA_SUCCESS;
    double took = 0;
    std::thread copying([&] {
      KVSHIM_BENCH_CHECK(cuCtxSetCurrent(on_.context));
      KVSHIM_BENCH_CHECK(copy.call());
      copied = true;
    });
    std::this_thread::sleep_for(kLateness);
    std::thread calling([&] {
      KVSHIM_BENCH_CHECK(cuCtxSetCurrent(on_.context));
      begun = true;
      const Timer timer;
      result = call.call();
      took = timer.microseconds();
      came_back = true;
    });
    while (!begun) std::this_thread::yield();
    const Timer waited;
    while (!came_back && waited.milliseconds() < static_cast<double>(patience_.count())) {
      std::this_thread::sleep_for(1ms);
    }
    const bool held_up = !came_back, copy_waited = !copied;
    gate.open();
    calling.join();
    copying.join();
    CUgraph graph = nullptr;
    KVSHIM_BENCH_CHECK(cuStreamEndCapture(captured_, &graph));
    KVSHIM_BENCH_CHECK(cuGraphDestroy(graph));
    KVSHIM_BENCH_CHECK(cuCtxSynchronize());
    KVSHIM_BENCH_CHECK(result);
    print(copy, call, held_up, copy_waited, took);
  }

  void print(const Copy& copy, const Call& call, bool held_up, bool copy_waited, double took) {
    std::printf(
        "{\"scenario\":\"held_copy\",\"copy\":\"%s\",\"call\":\"%s\",\"copy_waited\":%s,"
        "\"held_up\":%s,\"us\":%.0f}\n",
        copy.name, call.name, copy_waited ? "true" : "false", held_up ? "true" : "false", took);
    std::fflush(stdout);
    char line[192];
    std::snprintf(line, sizeof line, "%-28s %-37s %s%s\n", copy.name, call.name,
                  held_up ? "waited" : "came back",
                  copy_waited ? "" : " (the copy had come back as well)");
    table_ += line;
  }

  const MappingDevice& on_;
  const std::chrono::milliseconds patience_;
  CUfunction nothing_ = nullptr;
  CUstream stream_ = nullptr, held_ = nullptr, captured_ = nullptr;
  CUevent event_ = nullptr, ended_ = nullptr, pending_ = nullptr;
  CUdeviceptr from_ = 0, to_ = 0, spare_ = 0;
  std::vector<std::byte> pageable_;
  void* pinned_ = nullptr;
  std::vector<Copy> copies_;
  std::vector<Call> calls_;
  std::string table_;
};

}  // namespace

std::string measure_held_copies(const MappingDevice& on, bool simulator) {
  return HeldCopies(on, simulator).measure();
}

}  // namespace kvshim::bench
