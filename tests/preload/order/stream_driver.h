// A driver of streams, events and captures, as a graph of what waits for what.
// Nothing is executed: a test says which work has finished.
#pragma once

#include <cuda.h>

#include <atomic>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "vmm/driver.h"

namespace kvshim::preload::testing {

struct StreamDriver {
  struct Event {
    CUcontext context = nullptr;
    std::set<int> after;  // the work it stands for
  };
  struct Stream {
    CUcontext context = nullptr;
    std::set<int> before;  // all work that comes before what is submitted next
    std::uint64_t capture = 0;
    bool destroyed = false;
    unsigned flags = 1;  // CU_STREAM_NON_BLOCKING
  };

  StreamDriver();
  ~StreamDriver();
  const vmm::DriverApi& api() const { return api_; }

  CUstream make_stream(CUcontext context = nullptr);
  /// What the handle means in the calling thread.
  Stream& stream_of(CUstream handle);
  /// Submits a piece of work; its number.
  int work(CUstream stream);
  /// Whether the second piece can't start before the first has ended.
  bool ordered(int first, int second) const { return waits_for.at(second).contains(first); }
  void finish(int piece) { done.insert(piece); }
  std::uint64_t begin_capture(CUstream stream);
  void end_capture(CUstream stream);
  void join_capture(CUstream stream, std::uint64_t capture) { stream_of(stream).capture = capture; }

  std::map<CUstream, Stream> streams;
  std::map<std::thread::id, Stream> default_streams;  // the threads' own
  std::map<CUevent, Event> events;
  std::map<int, std::set<int>> waits_for;
  std::set<int> done;
  int last_work = 0;
  std::uint64_t last_capture = 0;
  std::uintptr_t last_handle = 0x1000;
  unsigned calls = 0;
  std::vector<std::string> breaches;
  CUresult record_result = CUDA_SUCCESS;
  unsigned failing_records = 0;         // so many fail, then they succeed
  std::atomic<bool> queue_full{false};  // a record waits until it isn't
  std::atomic<bool> record_waits{false};
  std::atomic<bool> first_record_only{false};  // others don't wait
  std::vector<CUcontext> contexts;

 private:
  vmm::DriverApi api_;
};

/// The one of the running test.
StreamDriver& stream_driver();

}  // namespace kvshim::preload::testing
