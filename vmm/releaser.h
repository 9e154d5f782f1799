// Finds idleness, proves quiescence, and gives memory back; brings the last
// used rows back before the first work.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "vmm/device_memory.h"
#include "vmm/fault_server.h"
#include "vmm/submission_gate.h"
#include "vmm/wakeup.h"

namespace kvshim::vmm {

/// Whether all submitted work that may touch pools has finished. Implemented
/// where streams are known (preload/); queries only, never waits.
class Quiescence {
 public:
  virtual ~Quiescence() = default;
  virtual bool finished() = 0;
};

struct ReleaseSettings {
  std::chrono::nanoseconds idle_timeout = std::chrono::seconds(2);
  std::chrono::nanoseconds slice = std::chrono::milliseconds(5);
  std::chrono::nanoseconds restore_time = std::chrono::milliseconds(10);
  std::chrono::nanoseconds drop_after = std::chrono::minutes(5);
  bool disposable = false;
  std::chrono::nanoseconds cold_after{0};  // 0: nothing is cold
  // Beside work, what is read while parked comes back (with DeviceSettings::follow_reads), and what
  // was parked in need.
  bool prefetch = false;
  // Where spells of work between idle releases are shorter, that gains nothing: in bursts of a
  // second it costs what it saves, and all is parked again (docs/results/vllm.md).
  std::chrono::nanoseconds short_spell = std::chrono::milliseconds(1500);
  // Bytes that are looked at in one go when somebody waits for memory: 5 ms on an H200.
  std::uint64_t seen_at_once = std::uint64_t{16} << 30;
};

class Releaser {
 public:
  Releaser(const DriverApi& driver, DeviceMemory& memory, SubmissionGate& gate,
           Quiescence& quiescence, FaultServer& server, ReleaseSettings settings);
  /// Starts the thread (detached, for the life of the process).
  void start();
  void stop() { stop_.request_and_wait(); }

  // --- what others want (any thread; releaser_giving.cpp) ---------------------
  /// Looks at once whether memory is to be given: a limit was set, a neighbour asks.
  void look_now() noexcept { wakeup_.wake(); }
  /// Releases what is idle now, whatever the idle timeout says.
  void release_now() noexcept {
    release_requests_.fetch_add(1);
    wakeup_.wake();
  }
  /// Nothing is under way that a changed limit or release_now() has asked for.
  bool settled() const noexcept {
    return release_requests_.load() == releases_done_.load() && !bringing_down_.load();
  }
  /// An allocation of the engine itself lacks `bytes`: idle contents of own pools give way
  /// while this lives. Each request stands for itself, several add up.
  class MakingWay {
   public:
    MakingWay(Releaser& releaser, std::uint64_t bytes) noexcept;
    ~MakingWay();
    MakingWay(const MakingWay&) = delete;
    MakingWay& operator=(const MakingWay&) = delete;
    /// False: all that could be had for it was given.
    bool goes_on() const noexcept { return releaser_.way_.tried.load() < number_; }
    /// Contents are being looked at, copied, released for requests just now: it comes.
    bool under_way() const noexcept { return releaser_.way_.under_way.load(); }
    /// Bytes that must be free for all requests to have their own.
    std::uint64_t needed_by_all() const noexcept {
      return releaser_.way_.lacking.load() + releaser_.way_.taking.load();
    }
    /// The allocation is being tried: nothing more is given for it, but what is free for
    /// it is nobody else's.
    void takes() noexcept;

   private:
    Releaser& releaser_;
    const std::uint64_t bytes_;
    const std::uint64_t number_;
    bool takes_ = false;
  };

  /// Called by a submitter before it enters the gate: brings back the most
  /// recently used parked extents, for at most restore_time. Cheap when
  /// nothing was parked since.
  void restore_before_first_work() {
    if (restorable_.load(std::memory_order_relaxed)) restore();
  }

  /// Whether all work has finished, without waiting for the next look of the releasing
  /// thread: then what guards had under way is void (DeviceMemory::no_guard_runs()). Any
  /// thread; waits for at most a slice or a restore.
  bool look_whether_finished();

  /// While one exists nothing of the own stream reads a pool: a pool may be
  /// freed. Making one waits until a release under way has noticed, not for its end.
  class Pause {
   public:
    explicit Pause(Releaser& releaser) {
      Interruption interruption(releaser);
      lock_ = std::unique_lock(releaser.working_);
    }

   private:
    std::unique_lock<std::mutex> lock_;
  };

 private:
  using Clock = std::chrono::steady_clock;
  /// A release under way ends at its next step.
  class Interruption {
   public:
    explicit Interruption(Releaser& releaser) : count_(releaser.interruptions_) {
      count_.fetch_add(1);
    }
    ~Interruption() { count_.fetch_sub(1); }
    Interruption(const Interruption&) = delete;
    Interruption& operator=(const Interruption&) = delete;

   private:
    std::atomic<std::uint32_t>& count_;
  };
  /// A block whose copy is under way, or done and waiting for its swap.
  struct ParkCopy {
    std::optional<PreparedPark> block;
    bool copying = true;  // it could be enqueued
  };
  /// Where the time of a release went, and what of the parked blocks' bytes was zero.
  struct ParkFigures {
    Clock::duration scan{}, prepare{}, copy{}, swap{}, retire{};
    std::uint64_t zero = 0;
    std::uint64_t refused = 0;  // bytes that stay, for the driver mapped no host memory for them
  };

  void run();
  void tick();
  void look_at_free_memory();
  void work_came(std::uint64_t epoch);
  /// New work came since `epoch`, or somebody waits for the releasing thread
  /// (also for its end: a context's destruction must not wait for a whole release).
  bool interrupted(std::uint64_t epoch) const noexcept {
    return gate_.epoch() != epoch || interruptions_.load() != 0 || stop_.requested();
  }
  enum class Poll {
    kSleep,
    kSpinFirst,  // for a tenth of a millisecond
    kSpin,
  };
  bool wait_for_stream(Poll poll = Poll::kSleep);
  /// Nothing stands in the own stream: what does may wait for the program.
  bool own_stream_is_empty() const;
  void make_slabs(std::uint64_t epoch);
  void split_at_first_slots(std::uint64_t epoch);
  void retire(std::uint64_t epoch);

  // releaser_giving.cpp
  enum class For { kNobody, kLimit, kOwnAllocation, kNeighbours };
  struct Wanted {
    std::uint64_t bytes = 0;
    For whom = For::kNobody;
    std::uint64_t most = UINT64_MAX;  // not a byte more: what lies above the reserve
    std::uint64_t free = 0;           // of the GPU, when it was looked at; limits don't ask
  };
  /// What is idle under `epoch`, of each the next one last: what was not looked at yet, and what
  /// was found in the rest.
  struct IdleContents {
    std::uint64_t epoch = UINT64_MAX;
    bool of_a_pause = false;
    std::vector<ExtentName> unseen{}, zero{}, blocks{};
    std::uint64_t found = 0;  // bytes of zero and blocks
    bool empty() const { return unseen.empty() && zero.empty() && blocks.empty(); }
  };
  Wanted wanted_now();
  void give_what_is_wanted();
  bool all_finished(std::uint64_t epoch);
  bool proves_finished(std::uint64_t epoch);
  /// Where the time of a round of giving went.
  struct Round {
    Clock::time_point begin = Clock::now();
    Clock::duration scan{}, zeros{};
    ParkFigures parking;
    bool tried = false;  // something that was found
  };
  bool give_some(std::uint64_t epoch, const Wanted& wanted, std::uint64_t* freed, Round* round);
  void tell_round(const Wanted& wanted, std::uint64_t freed, bool undisturbed, const Round& round);
  bool merely_pauses() const noexcept;
  std::uint64_t last_step() const noexcept;
  void list_idle(std::uint64_t epoch, bool pause);
  bool find_idle(std::uint64_t epoch, std::uint64_t bytes);
  void tell_given();
  void tell_needy(std::uint64_t freed);
  bool neighbours_want_no_more(std::uint64_t freed);
  void wait_for_room(Clock::time_point end);

  // releaser_cold.cpp
  bool look_at_reads();
  bool watch_writes(std::uint64_t epoch);
  std::vector<ExtentName> next_cold(std::uint64_t age);
  void release_cold(std::uint64_t epoch);
  void tell_cold();

  // releaser_parking.cpp. False: interrupted.
  bool release(std::uint64_t epoch);
  bool find_nonzero(std::uint64_t epoch, std::span<const ExtentName> extents,
                    std::vector<ExtentName>* zero, std::vector<ExtentName>* nonzero);
  bool make_absent(std::uint64_t epoch, std::span<const ExtentName> extents, ProofOfAbsence proof,
                   std::uint64_t* freed);
  bool park(std::uint64_t epoch, std::span<const ExtentName> extents, std::uint64_t* parked,
            std::vector<ExtentName>* no_room, ParkFigures* times);
  bool park_blocks(std::uint64_t epoch, std::deque<ExtentName> blocks, std::uint64_t* parked,
                   std::vector<ExtentName>* no_room, ParkFigures* times);
  ParkCopy start_copy(std::uint64_t epoch, std::deque<ExtentName>* blocks, std::uint64_t* cleared,
                      std::vector<ExtentName>* no_room, std::uint64_t* refused);
  bool clear_next(const std::deque<ExtentName>& blocks, std::uint64_t* cleared);
  bool swap_copied(std::uint64_t epoch, const PreparedPark& block, std::uint64_t* parked,
                   ParkFigures* figures);
  bool drop_parked_for(std::uint64_t epoch, std::uint64_t bytes);
  void drop_expired(std::uint64_t epoch);
  void warn_no_room(std::span<const ExtentName> stays);
  void warn_refused(std::uint64_t bytes);
  bool launch_clear(std::span<const ExtentName> extents);
  template <class Step>
  bool in_slices(std::uint64_t epoch, std::size_t count, const Step& step);

  // releaser_return.cpp
  void restore();
  bool wait_for_work_to_stop(std::unique_lock<std::mutex>& working);
  struct ReturnLimits {
    Clock::time_point end;
    std::uint64_t headroom = 0;  // bytes of GPU memory
    bool give_way = false;       // ends when a submitter waits
  };
  /// Where the time of a return went.
  struct ReturnTimes {
    Clock::duration prepare{}, copy{}, swap{};
  };
  std::uint64_t bring_back(std::span<const ExtentName>* blocks, const ReturnLimits& limits,
                           ReturnTimes* times);
  std::vector<PreparedPark> prepare_returns(std::span<const ExtentName>* blocks,
                                            std::uint64_t bytes, std::uint64_t headroom);
  bool copy_returns(std::span<const PreparedPark> batch);
  bool activity_lasts() const noexcept;
  void return_in_quiet(std::uint64_t epoch);
  void ask_for_a_return(std::uint64_t bytes);

  // releaser_moves.cpp
  std::uint64_t in_ticks(std::chrono::nanoseconds time) const;  // at least 1
  std::uint64_t tick_before(std::chrono::nanoseconds time) const;
  bool has_neighbours() const;
  bool neighbours_ask() const;
  std::uint64_t readers_asked_every() const;
  void ask_readers();
  struct Away {
    std::uint64_t bytes = 0;
    std::uint64_t unused_for = 0;  // ticks
    bool at_least_one = false;     // however large
  };
  bool wants_home() const;
  Away wants_away();
  std::vector<ExtentName> begin_to_bring_home();
  std::vector<ExtentName> begin_to_send_away(const Away& away);
  void copy_moves();
  enum class Moment { kTick, kBetweenTicks };
  void move_beside_work(Moment moment);
  void tell_moves();

  const DriverApi& driver_;
  DeviceMemory& memory_;
  SubmissionGate& gate_;
  Quiescence& quiescence_;
  FaultServer& server_;
  const ReleaseSettings settings_;
  const std::chrono::nanoseconds tick_;

  std::atomic<bool> restorable_{false};
  std::mutex closer_;  // one closer of the gate at a time; held for a slice
  // Held while pools are read or copied by the own stream; before closer_.
  std::mutex working_;
  std::atomic<std::uint32_t> interruptions_{0};
  std::uint64_t seen_epoch_ = 0;
  std::chrono::nanoseconds idle_{0};
  bool finished_ = false;  // everything up to seen_epoch_ has finished
  bool released_ = false;  // nothing more to release for seen_epoch_
  // Since the last release:
  std::chrono::nanoseconds active_{0};       // own ticks since work came first
  std::chrono::nanoseconds active_span_{0};  // the same until it came last
  unsigned quiet_spells_ = 0;                // that ended with new work
  std::uint64_t released_serial_ = 0;        // what was written later is larger
  std::uint64_t quiet_bytes_ = 0;            // brought back in quiet moments
  bool awake_ = false;                       // work came
  bool quiet_done_ = false;                  // nothing more to bring back in this spell
  std::atomic<double> return_rate_{0};       // bytes/ns of the last returns; 0: unknown
  std::uint64_t ticks_ = 0;
  std::uint64_t free_looked_ = 0;  // own tick at which the GPU's free memory was read
  // Cold rows, in own ticks:
  std::uint64_t next_watch_ = 0, next_cold_ = 0, cold_told_tick_ = 0;
  std::uint64_t cold_untold_ = 0;  // bytes
  // Moves beside work, in own ticks and bytes:
  std::uint64_t asked_since_ = 0;   // readers, regularly; 0: they are not
  std::uint64_t answers_seen_ = 0;  // of readers
  bool some_is_read_ = false;       // in host memory, perhaps
  std::chrono::nanoseconds last_spell_ = std::chrono::nanoseconds::max();  // of work, unknown: long
  std::uint64_t next_away_ = 0, next_home_ = 0;  // when nothing was found before
  bool comes_home_ = false;  // something is on its way: it is looked after between ticks, too
  std::uint64_t home_told_ = 0, away_told_ = 0, moves_told_tick_ = 0;
  std::uint64_t cold_at_once_ = std::uint64_t{64} << 20;
  std::uint64_t worked_ = 0;  // own tick at which work came last
  std::uint64_t warned_no_room_ = 0;
  bool warned_refused_ = false;

  Wakeup wakeup_;
  std::atomic<std::uint64_t> release_requests_{0}, releases_done_{0};
  /// What allocations of the engine lack, and what those lacked that are being tried, in
  /// bytes; the newest request, and the newest of which all was tried.
  struct Way {
    std::atomic<std::uint64_t> lacking{0}, taking{0};
    std::atomic<std::uint64_t> newest{0}, tried{0};
    std::atomic<bool> under_way{false};
  } way_;
  std::uint64_t way_seen_ = 0;              // the newest request when it was last looked at
  std::atomic<bool> bringing_down_{false};  // above the limit, and not yet tried in vain
  IdleContents idle_contents_;
  std::uint64_t nothing_left_epoch_ = UINT64_MAX;  // nothing more could be given ...
  std::uint64_t nothing_left_until_ = 0;           // ... in own ticks
  std::uint64_t given_untold_ = 0, brought_down_untold_ = 0, made_way_untold_ = 0;  // bytes
  std::uint64_t told_tick_ = 0;
  bool giving_ = false;           // to neighbours, just now
  std::uint64_t needy_told_ = 0;  // bytes
  std::uint64_t asked_at_ = 0;    // bytes of this round when it was last looked what is wanted
  StopFlag stop_;
};

}  // namespace kvshim::vmm
