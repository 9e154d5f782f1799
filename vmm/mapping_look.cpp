#include "vmm/mapping_look.h"

#include <pthread.h>

#include <algorithm>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "vmm/units.h"

namespace kvshim::vmm {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

// A look takes microseconds of its thread's own time, some more with the mappings it looks at; what
// has used so much is past it and waits for the GPU, spinning.
constexpr milliseconds kLooked{1};
constexpr microseconds kLookedEach{1};  // granule
// One that sleeps uses nothing. Longer than a thread that was preempted in the middle waits for
// its next turn.
constexpr milliseconds kLooksAtMost{20};
// A swap takes some 100 us, and waits itself for each look.
constexpr milliseconds kSwapsAtMost{500};
constexpr microseconds kPoll{20};
// What counts of the time between two polls: a process that was stopped goes on in the middle.
constexpr microseconds kPollsAtMost{200};

std::chrono::nanoseconds counted(std::chrono::nanoseconds between_polls) {
  return std::min<std::chrono::nanoseconds>(between_polls, kPollsAtMost);
}

struct UnderWay {
  std::mutex mutex;  // a leaf
  std::vector<MappingLook*> looks;
  std::vector<const MappingSwap*> swaps;
};

// Leaked: hooks run until the process has ended.
UnderWay& under_way() {
  static auto* const instance = new UnderWay;
  return *instance;
}

// Asks `done`, under the mutex, until it says so.
template <class Done>
void wait_until(UnderWay& all, const Done& done) {
  for (;;) {
    {
      std::lock_guard lock(all.mutex);
      if (done()) return;
    }
    std::this_thread::sleep_for(kPoll);
  }
}

std::chrono::nanoseconds time_of(clockid_t clock) {
  timespec now{};
  if (clock_gettime(clock, &now) != 0) return {};
  return std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec);
}

}  // namespace

MappingLook::MappingLook(std::span<const AddressRange> ranges) : ranges_(ranges), needs_(kLooked) {
  for (const AddressRange& range : ranges_) {
    needs_ += kLookedEach * static_cast<std::int64_t>((range.end - range.begin) >> kGranuleShift);
  }
  has_cpu_clock_ = pthread_getcpuclockid(pthread_self(), &cpu_clock_) == 0;
  UnderWay& all = under_way();
  std::chrono::nanoseconds waited{0};
  asked_ = std::chrono::steady_clock::now();
  wait_until(all, [&] {
    const bool in_the_way =
        std::any_of(all.swaps.begin(), all.swaps.end(),
                    [&](const MappingSwap* swap) { return meets(swap->range_); });
    const auto now = std::chrono::steady_clock::now();
    waited += counted(now - std::exchange(asked_, now));
    if (in_the_way && waited < kSwapsAtMost) return false;
    if (has_cpu_clock_) cpu_begin_ = time_of(cpu_clock_);
    all.looks.push_back(this);
    return true;
  });
}

MappingLook::~MappingLook() {
  UnderWay& all = under_way();
  std::lock_guard lock(all.mutex);
  std::erase(all.looks, this);
}

bool MappingLook::meets(const AddressRange& range) const {
  return ranges_.empty() || std::any_of(ranges_.begin(), ranges_.end(),
                                        [&](const AddressRange& own) { return own.meets(range); });
}

// Under the mutex: the thread of a look that is there has not ended. Once past, for good.
bool MappingLook::gets_past() {
  const auto now = std::chrono::steady_clock::now();
  waited_for_ += counted(now - std::exchange(asked_, now));
  past_ = past_ || waited_for_ >= kLooksAtMost ||
          (!ranges_.empty() && has_cpu_clock_ && time_of(cpu_clock_) - cpu_begin_ >= needs_);
  return past_;
}

MappingSwap::MappingSwap(const AddressRange& range) : range_(range) {
  UnderWay& all = under_way();
  {
    std::lock_guard lock(all.mutex);
    all.swaps.push_back(this);
  }
  wait_until(all, [&] {
    return std::none_of(all.looks.begin(), all.looks.end(), [&](MappingLook* look) {
      return look->meets(range_) && !look->gets_past();
    });
  });
}

MappingSwap::~MappingSwap() {
  UnderWay& all = under_way();
  std::lock_guard lock(all.mutex);
  std::erase(all.swaps, this);
}

}  // namespace kvshim::vmm
