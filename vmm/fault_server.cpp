#include "vmm/fault_server.h"

#include <pthread.h>
#include <sys/prctl.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "vmm/room_wait.h"
#include "vmm/service_thread.h"
#include "vmm/stopwatch.h"

namespace kvshim::vmm {
namespace {

using Clock = std::chrono::steady_clock;

std::uint32_t load(const std::uint32_t& word) {
  return std::atomic_ref(const_cast<std::uint32_t&>(word)).load(std::memory_order_acquire);
}
void store(std::uint32_t& word, std::uint32_t value) {
  std::atomic_ref(word).store(value, std::memory_order_release);
}

void sleep_microseconds(long microseconds) {
  const timespec pause{microseconds / 1'000'000, microseconds % 1'000'000 * 1000};
  nanosleep(&pause, nullptr);
}

// Faults come in clumps (one for each layer that meets its first missing
// granule), so the server spins for a moment after one; then it sleeps briefly.
// Between clumps it sleeps longer: a steady decode has none for seconds, and a
// thread that wakes every 5 us takes a third of a core, perhaps the engine's
// sibling. Longer still when nothing new was submitted for a while.
constexpr auto kSpin = std::chrono::microseconds(200);
constexpr long kShortSleep = 5;
constexpr long kMediumSleep = 20;
constexpr long kLongSleep = 500;
constexpr auto kClump = std::chrono::milliseconds(20);
constexpr auto kRecent = std::chrono::milliseconds(200);
constexpr auto kSlow = std::chrono::microseconds(300);

}  // namespace

void FaultServer::start() {
  start_service_thread(stop_, [this] { run(); });
}

void FaultServer::stop() {
  stop_.request();
  gate_.enter();  // wakes it if it sleeps
  gate_.leave();
  stop_.request_and_wait();
}

void FaultServer::run() {
  pthread_setname_np(pthread_self(), "kvshim-faults");
  prctl(PR_SET_TIMERSLACK, 1000UL);  // 1 us: the default of 50 us is half a fault
  driver_.cuCtxSetCurrent(memory_.context());
  GuardChannel& channel = *memory_.kernels().channel();
  auto last_fault = Clock::now();
  auto last_entry = last_fault;
  std::uint64_t seen_epoch = 0;
  while (!stop_.requested()) {
    const std::uint32_t ticket = load(channel.request);
    if (ticket != channel.answer) {
      serve(ticket);
      last_fault = Clock::now();
      continue;
    }
    const std::uint64_t epoch = gate_.epoch();
    if (epoch == finished_epoch_.load()) {
      memory_.nothing_ahead();
      gate_.wait_for_entry(epoch);
      continue;
    }
    const auto now = Clock::now();
    if (epoch != seen_epoch) {
      seen_epoch = epoch;
      last_entry = now;
    }
    if (memory_.step_ahead(finished_epoch_.load())) {
      // A guard that asked meanwhile had to wait for it.
      if (const auto took = Clock::now() - now; took > kSlow) {
        memory_.events().push(
            EventLevel::kDebug,
            "a step ahead of the guards took " + std::to_string(whole_microseconds(took)) + " us");
      }
      continue;
    }
    if (now - last_fault < kSpin) continue;
    sleep_microseconds(now - last_entry >= kRecent ? kLongSleep
                       : now - last_fault < kClump ? kShortSleep
                                                   : kMediumSleep);
  }
}

// Without the memory's lock: other threads submit, free and release meanwhile.
void FaultServer::wait_for_room(std::span<const AbiRun> wanted, bool rows) {
  Pressure* const pressure = memory_.pressure();
  if (pressure == nullptr || !pressure->anyone_else()) return;
  const std::uint64_t bytes = memory_.lacking(wanted, rows, 0);
  if (bytes == 0) {
    const std::uint64_t ahead = pressure->wanted_ahead();
    if (ahead == 0) return;
    const std::uint64_t taken = memory_.lacking(wanted, rows, ahead);
    if (taken != 0) pressure->ask_ahead(taken);
    return;
  }
  memory_.answer_waits_for_room(true);
  vmm::wait_for_room(
      *pressure, Lack::kFault, bytes, {},
      [&](std::uint64_t set_apart) {
        return !stop_.requested() && memory_.lacking(wanted, rows, set_apart) != 0;
      },
      memory_.statistics(), memory_.events());
  memory_.answer_waits_for_room(false);
}

void FaultServer::serve(std::uint32_t ticket) {
  const auto begin = Clock::now();
  GuardChannel& channel = *memory_.kernels().channel();
  FaultAnswer answer;
  const std::uint32_t told = load(channel.request_kind);
  const auto kind = static_cast<RequestKind>(told & ~kBehindFlag);
  if (kind == RequestKind::kCopied) {
    memory_.statistics().guard_copies_us.fetch_add(whole_microseconds(begin - answered_),
                                                   std::memory_order_relaxed);
    answer = memory_.copied(finished_epoch_.load());
  } else {
    const std::uint32_t count = std::min(load(channel.wanted_count), kMaxWantedRuns);
    const std::span<const AbiRun> wanted(channel.wanted, count);
    const bool rows = kind == RequestKind::kWantedRows;
    wait_for_room(wanted, rows);
    answer =
        memory_.fault(wanted, rows, finished_epoch_.load(),
                      (told & kBehindFlag) != 0 ? GuardPlace::kBehindAnother : GuardPlace::kFirst);
  }
  const auto runs = std::min<std::size_t>(answer.runs.size(), kMaxAnswerRuns);
  const auto copies = std::min<std::size_t>(answer.copies.size(), kMaxCopies);
  std::copy_n(answer.runs.begin(), runs, channel.runs);
  std::copy_n(answer.copies.begin(), copies, channel.copies);
  channel.run_count = static_cast<std::uint32_t>(runs);
  channel.copy_count = static_cast<std::uint32_t>(copies);
  channel.answer_kind = static_cast<std::uint32_t>(answer.kind);
  store(channel.answer, ticket);
  answered_ = Clock::now();
  const auto spent = std::chrono::duration_cast<std::chrono::microseconds>(answered_ - begin);
  if (spent > kSlow) tell_of_slow_fault(answer, spent);
  // Not among the faults: answered at once, they would make the others look fast.
  if (answer.only_watched) {
    memory_.statistics().asked_again.fetch_add(1, std::memory_order_relaxed);
  } else {
    memory_.statistics().faults.add(static_cast<std::uint64_t>(spent.count()));
  }
}

void FaultServer::tell_of_slow_fault(const FaultAnswer& answer, std::chrono::microseconds spent) {
  std::uint64_t granules = 0;
  for (const AbiRun& run : answer.runs) granules += run.count;
  memory_.events().push(EventLevel::kDebug,
                        "a fault took " + std::to_string(spent.count()) +
                            " us: " + std::to_string(granules) + " granules in " +
                            std::to_string(answer.runs.size()) + " runs, " +
                            std::to_string(answer.copies.size()) + " copies by the guard, " +
                            std::to_string(whole_microseconds(answer.waited)) + " us for others");
}

void GuardWatchdog::start() {
  start_service_thread(stop_, [this] { run(); });
}

void GuardWatchdog::run() {
  pthread_setname_np(pthread_self(), "kvshim-watchdog");
  constexpr std::uint64_t kTick = 100;  // milliseconds
  GuardChannel& channel = *memory_.kernels().channel();
  std::uint32_t waiting_for = load(channel.answer);
  std::uint64_t ticks = 0;
  while (!stop_.requested()) {
    sleep_microseconds(kTick * 1000);
    if (stop_.requested()) break;
    memory_.kernels().copy_steps().let_go_what_was_forgotten();
    const std::uint32_t request = load(channel.request);
    if (request == load(channel.answer) || request != waiting_for) {
      waiting_for = request;
      ticks = 0;
      store(channel.give_up, 0);  // the server gets on: faults are served again
      continue;
    }
    if (++ticks * kTick < patience_ || load(channel.give_up) != 0) continue;
    // Before, for the moves that go on, and after, for one that begins in between.
    memory_.guard_gives_up();
    store(channel.give_up, 1);
    memory_.guard_gives_up();
    memory_.events().push(EventLevel::kError,
                          "a guard waited " +
                              (patience_ < 1000 ? std::to_string(patience_) + " ms"
                                                : std::to_string(patience_ / 1000) + " s") +
                              " without progress and was told to give up; the engine will stop "
                              "with an illegal address (option guard_watchdog)");
  }
}

}  // namespace kvshim::vmm
