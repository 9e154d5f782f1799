// The releasing thread: what time it is, and whether everything has finished.
// What it then does is in releaser_parking.cpp and releaser_return.cpp.
#include "vmm/releaser.h"

#include <pthread.h>
#include <sys/prctl.h>

#include <algorithm>
#include <thread>

#include "vmm/context_scope.h"
#include "vmm/service_thread.h"

namespace kvshim::vmm {
namespace {

using std::chrono::milliseconds;
using std::chrono::nanoseconds;

// When nothing was submitted for so long it is looked whether all has finished.
constexpr nanoseconds kLook = milliseconds(50);
constexpr nanoseconds kQuiet = milliseconds(20);
constexpr nanoseconds kLookAtFree = milliseconds(500);
// What comes home waits for a step of the engine, then for its copy, then for a step again.
constexpr nanoseconds kMoveStep = milliseconds(1);
constexpr std::chrono::microseconds kSpinFirst{100};
constexpr std::chrono::seconds kQueryPatience{1};  // for a driver that refuses to say

nanoseconds tick_for(nanoseconds idle_timeout) {
  return std::clamp<nanoseconds>(idle_timeout / 10, milliseconds(1), milliseconds(20));
}

}  // namespace

Releaser::Releaser(const DriverApi& driver, DeviceMemory& memory, SubmissionGate& gate,
                   Quiescence& quiescence, FaultServer& server, ReleaseSettings settings)
    : driver_(driver),
      memory_(memory),
      gate_(gate),
      quiescence_(quiescence),
      server_(server),
      settings_(settings),
      tick_(tick_for(settings.idle_timeout)) {}

void Releaser::start() {
  start_service_thread(stop_, [this] { run(); });
}

void Releaser::run() {
  pthread_setname_np(pthread_self(), "kvshim-release");
  prctl(PR_SET_TIMERSLACK, 1000UL);  // 1 us: copies of 2 ms are waited for
  driver_.cuCtxSetCurrent(memory_.context());
  // Queries and allocations of this thread must not invalidate a capture.
  CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
  driver_.cuThreadExchangeStreamCaptureMode(&mode);
  auto next = Clock::now() + tick_;
  while (!stop_.requested()) {
    const auto left = next - Clock::now();
    if (left > nanoseconds(0)) {
      const bool woken = wakeup_.wait_for(comes_home_ ? std::min(left, kMoveStep) : left);
      if (stop_.requested()) break;
      if (woken) {
        give_what_is_wanted();
      } else if (comes_home_ && !finished_ && Clock::now() < next) {
        move_beside_work(Moment::kBetweenTicks);
      }
      continue;
    }
    tick();
    next = Clock::now() + tick_;
  }
}

void Releaser::work_came(std::uint64_t epoch) {
  if (!awake_) {
    awake_ = true;
    active_ = active_span_ = {};
    quiet_spells_ = 0;
    quiet_bytes_ = 0;
  } else if (finished_) {
    ++quiet_spells_;
  }
  worked_ = ticks_;
  active_span_ = active_;
  quiet_done_ = false;
  seen_epoch_ = epoch;
  ask_readers();
  idle_ = {};
  finished_ = released_ = false;
}

// Idleness is counted in own ticks: after a pause of the whole process one
// tick has passed, not the pause.
void Releaser::tick() {
  memory_.set_tick(++ticks_);
  comes_home_ = false;
  active_ += tick_;
  look_at_free_memory();
  const std::uint64_t epoch = gate_.epoch();
  if (epoch != seen_epoch_) {
    work_came(epoch);
    // What a restore or an interrupted release left. Faults get in between.
    while (!stop_.requested() && memory_.release_some_retired()) {
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
    give_what_is_wanted();
    if (!finished_) move_beside_work(Moment::kTick);
    return;
  }
  idle_ += tick_;
  give_what_is_wanted();
  if (!finished_) {
    // Not at every tick: a query of a busy stream is not free.
    const nanoseconds look =
        activity_lasts() && memory_.parked_bytes().returnable != 0 ? kQuiet : kLook;
    if (idle_ < std::min(settings_.idle_timeout, look)) return;
    if (!all_finished(epoch)) return;
  }
  if (idle_ < settings_.idle_timeout) {
    split_at_first_slots(epoch);
    if (activity_lasts() && !quiet_done_) return_in_quiet(epoch);
    release_cold(epoch);
    // A paused process releases nothing, and windows take GPU memory.
    if (!memory_.limits().paused.load(std::memory_order_relaxed)) make_slabs(epoch);
    return;
  }
  if (memory_.limits().paused.load(std::memory_order_relaxed)) return;
  if (!released_) {
    std::lock_guard working(working_);
    released_ = release(epoch);
    if (released_) {
      if (awake_) last_spell_ = active_span_;
      awake_ = false;
      // Without a clock only gifts of a pause are cold, and the pause is over.
      memory_.cold_becomes_idle(ticks_, settings_.cold_after.count() != 0);
    }
  } else if (settings_.disposable) {
    drop_expired(epoch);
  }
  // Last, for parking takes its time for calls of the driver already; never beside work on pools,
  // and for a part of the time only, for other work meets the driver's locks.
  const auto end = Clock::now() + tick_ / 2;
  while (released_ && !interrupted(epoch) && !wakeup_.rung() && Clock::now() < end &&
         memory_.unmap_spare_windows()) {
    continue;
  }
}

// For the figures of tools. Here, because the context is current and nobody waits for
// this thread: the gate is open, no lock is held.
void Releaser::look_at_free_memory() {
  if (memory_.pressure() == nullptr || (ticks_ - free_looked_) * tick_ < kLookAtFree) return;
  free_looked_ = ticks_;
  memory_.gpu_free();
}

// closer_ held.
bool Releaser::proves_finished(std::uint64_t epoch) {
  if (!gate_.try_close(epoch)) return false;
  SubmissionGate::OpenAtEnd open(gate_);
  if (!quiescence_.finished()) return false;
  memory_.no_guard_runs();
  server_.all_finished(epoch);
  return true;
}

bool Releaser::all_finished(std::uint64_t epoch) {
  {
    std::lock_guard closing(closer_);
    finished_ = proves_finished(epoch);
  }
  if (!finished_) return false;
  // A pause has ways of its own, which read and copy what a question must not swap meanwhile.
  memory_.end_moves(DeviceMemory::MoveEnd::kAll);
  if (readers_asked_every() != UINT64_MAX) {
    // Marks that were not taken yet are of this time. Later they would bring home what the next
    // work doesn't read.
    std::unique_lock working(working_, std::try_to_lock);
    // New work may have put something there meanwhile.
    if (working && own_stream_is_empty()) look_at_reads();
    memory_.read_marks().pause_begins(ticks_);
  }
  return true;
}

bool Releaser::look_whether_finished() {
  RelaxedCaptureScope relaxed(driver_);
  std::lock_guard closing(closer_);
  return proves_finished(gate_.epoch());
}

// Where sequences will begin, so that their first faults needn't split 32 MiB.
void Releaser::split_at_first_slots(std::uint64_t epoch) {
  const auto end = Clock::now() + settings_.slice;
  while (!interrupted(epoch) && Clock::now() < end) {
    std::lock_guard closing(closer_);
    if (gate_.anyone_waiting() || !gate_.try_close(epoch)) return;
    SubmissionGate::OpenAtEnd open(gate_);
    if (!memory_.split_at_first_slots()) return;
  }
}

bool Releaser::own_stream_is_empty() const {
  return driver_.cuStreamQuery(memory_.kernels().stream()) == CUDA_SUCCESS;
}

// Polls: the calling thread must not be stuck in the driver. Not ended by a
// stop: what the stream still touches must keep its mappings.
bool Releaser::wait_for_stream(Poll poll) {
  Clock::time_point gives_up{};
  const auto spins_until = Clock::now() + kSpinFirst;
  for (;;) {
    const CUresult state = driver_.cuStreamQuery(memory_.kernels().stream());
    if (state == CUDA_SUCCESS) return true;
    // A refused query says nothing of the work: its buffers and pages may be in use.
    // Only a context that has failed refuses for ever, and there nothing runs.
    if (state != CUDA_ERROR_NOT_READY) {
      if (gives_up == Clock::time_point{}) gives_up = Clock::now() + kQueryPatience;
      if (Clock::now() > gives_up) return false;
    } else {
      gives_up = {};
    }
    if (poll == Poll::kSpin || (poll == Poll::kSpinFirst && Clock::now() < spins_until)) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
  }
}

// Pinning delays the creation of handles and the engine's own driver calls in other
// threads (facts; measured in faults and launches): for a part of the time only, and
// never beside work, and no more when somebody wants memory: it is looked for first.
void Releaser::make_slabs(std::uint64_t epoch) {
  const auto end = Clock::now() + tick_ / 2;
  while (!interrupted(epoch) && !wakeup_.rung() && memory_.make_slabs_ahead() &&
         Clock::now() < end) {
    continue;
  }
}

// Ends when new work comes: whoever submits it may wait for working_.
void Releaser::retire(std::uint64_t epoch) {
  while (!interrupted(epoch) && memory_.release_some_retired()) continue;
}

}  // namespace kvshim::vmm
