// Calls at which the driver looks at the mappings of pool addresses.
//
// Measured (docs/results/driver_semantics.md): it refuses, with INVALID_VALUE and
// without effect, a copy or a fill whose destination is a hole or read-only at the
// time of the call, and crashes when the mapping changes while it looks (MappingLook). So
// the calling thread makes the destination present itself where nothing unfinished may
// look at it meanwhile. Else it becomes present when the guard in front has run, which the
// call then has to wait for. A swap takes 60 to 300 us, a row of them some milliseconds.
#include <algorithm>
#include <chrono>
#include <thread>

#include "observe/log.h"
#include "preload/runtime.h"
#include "preload/submission.h"

namespace kvshim::preload {
namespace {

using Clock = std::chrono::steady_clock;

// The wait is for the stream to get to the guard. A stream that waits for this very
// thread never does (a host function, a word that this thread would write next, an
// event that it would record): the call must end, and before kPatience of
// submission.cpp makes other threads give up the order between streams.
constexpr auto kLongestWait = std::chrono::seconds(5);
constexpr auto kPoll = std::chrono::microseconds(20);

bool all_written_present(const CurrentWork& now) {
  return std::all_of(now.touched.begin(), now.touched.end(),
                     [](const Touched& t) { return t.device->memory.all_present(t.written); });
}

std::uint64_t failed_faults(std::span<const Touched> touched) {
  std::uint64_t sum = 0;
  for (const Touched& t : touched) sum += t.device->memory.statistics().failed_faults.load();
  return sum;
}

// Without waiting for the GPU; false when something unfinished may look at the
// destination meanwhile, or there is no memory.
bool make_present_now(const Touched& touched) {
  return touched.device->memory.make_present_now(touched.written,
                                                 touched.device->server.finished_epoch());
}

// A captured copy or fill runs at times the gate can't see, and the driver
// checks its destination when it is captured and when the graph is
// instantiated: its ranges stay present for good.
CUresult pin_for_capture(CurrentWork& now) {
  now.pinned = true;
  for (const Touched& t : now.touched) {
    if (t.written.empty()) continue;
    t.device->memory.pin(t.written);
    if (make_present_now(t)) continue;
    const CUresult result =
        guard_on_own_stream(*t.device, t.written, vmm::GuardPlace::kBehindAnother);
    if (result != CUDA_SUCCESS) return result;
  }
  return CUDA_SUCCESS;
}

// Told later: the thread holds the submission lock.
void tell_that_the_stream_is_stuck(const CurrentWork& now) {
  for (const Touched& t : now.touched) {
    if (t.device->memory.all_present(t.written)) continue;
    t.device->memory.events().push(
        vmm::EventLevel::kWarning,
        "a copy or fill into memory that was not there yet waited 5 s for its stream to get to it "
        "and was then refused with the driver's INVALID_VALUE: the stream is stuck, perhaps behind "
        "something that the calling thread would do next (a rule that leaves the pool alone "
        "helps)");
  }
}

enum class Presence { kThere, kNoMemory, kStuck };

// The driver is not asked before: it would refuse, and look at mappings that a fault swaps.
Presence wait_for_presence(const CurrentWork& now, Clock::time_point end) {
  while (!all_written_present(now)) {
    if (failed_faults(now.touched) != now.failed_faults) return Presence::kNoMemory;
    if (Clock::now() > end) return Presence::kStuck;
    std::this_thread::sleep_for(kPoll);
  }
  return Presence::kThere;
}

// What could be done at once, or is to be for good. Faults that fail in these tries don't count: a
// guard may still have more luck.
CUresult begin_presence(CurrentWork& now) {
  const std::uint64_t before = failed_faults(now.touched);
  CUresult result = CUDA_SUCCESS;
  if (!now.pinned && now.stream && is_capturing(*now.stream)) {
    // The pin stays: what is not there when it is captured may be at instantiation.
    result = pin_for_capture(now);
  } else {
    for (const Touched& t : now.touched) make_present_now(t);
  }
  now.failed_faults += failed_faults(now.touched) - before;
  return result;
}

}  // namespace

CurrentWork::CurrentWork(std::span<const Touched> ranges, std::optional<StreamRef> on)
    : touched(ranges), stream(on) {
  begins();
}

void CurrentWork::begins() noexcept { failed_faults = preload::failed_faults(touched); }

std::span<const vmm::AddressRange> CurrentWork::addresses() {
  if (!addresses_.empty()) return addresses_;
  for (const Touched& t : touched) {
    const vmm::Arena& arena = t.device->memory.arena();
    for (const std::vector<vmm::AbiRun>* runs : {&t.written, &t.read_anywhere}) {
      for (const vmm::AbiRun& run : *runs) {
        addresses_.push_back({arena.address(run.first), arena.address(run.first + run.count)});
      }
    }
  }
  return addresses_;
}

CUresult retry_over_holes(SubmitRef call, WhileAbsent absent) {
  CurrentWork* const work = CurrentWork::get();
  const auto end = Clock::now() + kLongestWait;
  std::span<const vmm::AddressRange> looked_at;  // empty: nobody knows
  bool waits = work != nullptr && absent == WhileAbsent::kRefused;
  if (work != nullptr) {
    if (const CUresult result = begin_presence(*work); result != CUDA_SUCCESS) return result;
    // A graph's other copies are looked at as well, for longer than a look's time of its own.
    if (work->stream) looked_at = work->addresses();
    waits = waits || work->pinned;
  }
  for (;;) {
    Presence presence = Presence::kThere;
    if (waits) presence = wait_for_presence(*work, end);
    if (presence == Presence::kNoMemory) return CUDA_ERROR_OUT_OF_MEMORY;
    if (presence == Presence::kStuck) tell_that_the_stream_is_stuck(*work);
    const vmm::SwapWatch watch = vmm::SwapWatch::start();
    const CUresult result = [&] {
      vmm::MappingLook look(looked_at);
      return call();
    }();
    if (result != CUDA_ERROR_INVALID_VALUE || presence == Presence::kStuck) return result;
    waits = work != nullptr && !all_written_present(*work);
    if (!waits && !watch.overlapped()) return result;
    if (Clock::now() > end) return result;
  }
}

CUresult retry_while_absent(std::span<const Access> ranges, SubmitRef call) {
  Runtime* runtime = Runtime::get();
  if (runtime == nullptr) return call();
  // A guarded graph's copies may read pools: a hole is an obstacle to them as well.
  if (ranges.empty()) return retry_over_holes(call);
  const std::vector<Touched> touched = by_device(*runtime, ranges);
  CurrentWork now(touched, std::nullopt);
  CurrentWorkScope scope(now);
  return retry_over_holes(call, WhileAbsent::kPerhaps);
}

}  // namespace kvshim::preload
