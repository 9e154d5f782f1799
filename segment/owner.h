// A process's own record in the segment of one GPU: publishing, listening,
// asking the neighbours for memory and answering them.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "segment/contents.h"

namespace kvshim::segment {

struct Segment;
struct Record;

/// A neighbour's need, as read.
struct NeighbourNeed {
  std::size_t index = 0;  // of the record
  std::uint64_t claim = 0;
  Need need;
  std::uint64_t answers = 0, answered_bytes = 0;  // so far, from everybody
  std::int64_t priority = 0;
};

/// A living neighbour, as it last said.
struct NeighbourState {
  std::size_t index = 0;  // of the record
  std::uint64_t claim = 0;
  Figures figures;
  Settings settings;
  Text<48> group;  // of its control
  std::uint64_t quota_wanted = 0;
  std::uint64_t held = 0;  // now: GPU memory of its pools and their caches, bytes
};

/// A limit that the members of a group ("*": everybody) have together.
struct GroupLimit {
  std::string name;
  std::uint64_t bytes = 0;
};

struct Answers {
  std::uint64_t count = 0;  // neighbours that have answered
  std::uint64_t bytes = 0;  // what they say they freed
};

/// What a tick has found, as lines for the log.
struct Tick {
  std::vector<std::string> news;      // for "info": a neighbour died, ...
  std::vector<Identity> died;         // whose records this tick has cleared
  std::vector<std::string> problems;  // for "warning", each said once
};

/// Thread-safe; one mutex of this process, held for microseconds, never across
/// a wait. Makes no driver call. A living Owner works on when its file is
/// deleted, truncated or spoilt, or when the host closes its descriptors:
/// tick() notices and attaches anew. Until then it acts as one without
/// neighbours: every call but control_generation() and group_generation() looks
/// at the file's size first (fstat), so that a truncated one raises SIGBUS only in
/// the microsecond after that look; those two are safe from the next tick on.
/// Call tick() at least every 100 ms.
class Owner {
 public:
  /// Opens or makes the segment of `uuid` in `folder` (empty: /dev/shm) and takes
  /// a record. Null with `*why` when that can't be: no folder, no permission,
  /// somebody else's file, no space, all records taken, in use by another
  /// version. `initial` becomes the record's control (priority clamped).
  /// Blocks at most about a second (maker's lock held by a stopped process).
  static std::unique_ptr<Owner> attach(const std::string& folder, const std::string& uuid,
                                       const Identity& identity, const Control& initial, Tick* said,
                                       std::string* why);
  /// Detaches.
  ~Owner();
  Owner(const Owner&) = delete;
  Owner& operator=(const Owner&) = delete;

  /// Some microseconds. Does nothing while detached.
  void publish(const Figures& figures, const Settings& settings) noexcept;

  /// Says at once that pools and their caches hold so many bytes of GPU memory: before some is
  /// made, and after some was released. Takes no lock, so that no fault waits for a thread that
  /// attaches: a microsecond. Kept while detached.
  void holds(std::uint64_t bytes) noexcept;

  /// Checks the file and the descriptor, attaches anew if need be, clears the
  /// records of dead neighbours (at most once a second). About 2 us when
  /// nothing happened. One thread.
  Tick tick();

  /// A few nanoseconds, any thread: changes whenever the control does.
  std::uint64_t control_generation() const noexcept;
  /// The control in force, the last valid one when what is there now is corrupt
  /// (said once in the next tick's problems).
  Control control(std::uint64_t* generation = nullptr);
  /// The controls of the groups this process belongs to: "*", and its own.
  std::vector<Control> group_controls();
  /// Few nanoseconds per group: sum of their generations.
  std::uint64_t group_generation() const noexcept;

  /// Posts what is lacking (replacing an earlier need) and rings every living
  /// neighbour. Returns the need's serial. Tens of microseconds. `since_ns`: when the same
  /// was said first, by monotonic_ns(); 0: it is new.
  std::uint64_t post_need(std::uint64_t bytes, NeedKind kind, std::uint64_t since_ns = 0) noexcept;
  /// No effect when there is none.
  void clear_need() noexcept;
  /// To the need in force.
  Answers answers() const noexcept;

  /// Needs of all living neighbours, oldest first.
  std::vector<NeighbourNeed> needs() const;
  /// What all living neighbours say of themselves, by index. About a microsecond each;
  /// a record that is being written all the time is left out.
  std::vector<NeighbourState> states() const;
  /// Living records but our own.
  std::size_t neighbours() const;
  /// Tells the needy one that `freed` bytes (0: nothing to give) were freed for
  /// it, and rings it. False when the need is no longer in force.
  bool answer(const NeighbourNeed& need, std::uint64_t freed) noexcept;

  // --- what a group's limit leaves this process (owner_quota.cpp) ---
  /// Bytes; 0: nothing was divided yet, or detached.
  std::uint64_t quota() const noexcept;
  /// Raises the quota towards `wanted`, so far that with it, all members' quotas (of one
  /// without: what it last said that it holds) stay within each limit. Never lowers it.
  /// The quota afterwards; unchanged while another process divides. Some microseconds.
  std::uint64_t raise_quota(std::uint64_t wanted, const std::vector<GroupLimit>& limits);
  /// Lowers it to `bytes` (0: gives it up); no effect when it is lower. REQUIRES: the
  /// process holds no more than that and will not.
  void lower_quota(std::uint64_t bytes) noexcept;
  /// Bytes that this process would like to hold (0: no wish any more). A wish rings
  /// everybody.
  void want_quota(std::uint64_t bytes) noexcept;
  /// As last published.
  Figures own_figures() const;

  /// Waits until somebody rings (a tool changed the control, a neighbour posted
  /// or answered), at most `timeout`. True: rung since the last wait returned,
  /// or joined (anew) since.
  /// One thread at a time; stop it with wake().
  bool wait(std::chrono::nanoseconds timeout) noexcept;
  /// Ends a wait of this process.
  void wake() noexcept;

  /// Orderly end: the record is free afterwards. Idempotent; later calls do
  /// nothing or return empty values. Async-signal-safe but for its mutex.
  void detach() noexcept;
  /// In a forked child, before anything else (pthread_atfork): closes the
  /// child's copy of the descriptor, so that the lock is the parent's alone, and
  /// forgets the rest. Async-signal-safe; takes no lock. The object must not be
  /// used or destroyed afterwards.
  void abandon_after_fork() noexcept;

  bool attached() const noexcept;
  std::size_t index() const noexcept;
  std::uint64_t claim() const noexcept;
  const std::string& path() const noexcept { return path_; }

 private:
  Owner(const std::string& folder, const std::string& uuid, const Identity& identity,
        const Control& initial);
  bool take_record(Segment& segment, int file, std::size_t index, std::uint64_t claim);
  bool join(Tick* said, std::string* why);
  bool take_any_record(Segment& segment, std::string* why);
  void leave_descriptor() noexcept;
  std::string damage() const;
  void refresh_control(Tick* said);
  void clear_dead(Tick* said);
  /// Whether the memory can be touched: the file has its full size, or is out of use.
  bool safe() const noexcept;
  /// Null: detached, robbed, or not safe.
  Record* own() const noexcept;
  Control control_locked(std::uint64_t* generation);

  const std::string folder_, uuid_;
  std::string path_;
  Identity identity_;

  mutable std::mutex mutex_;
  /// Never unmapped while this object lives; the memory behind it may change.
  Segment* segment_ = nullptr;
  /// For locking only (file_lock.h). Read in a forked child: atomics.
  std::atomic<int> descriptor_{-1};
  /// Threads between loading descriptor_ without mutex_ and their last use of it.
  mutable std::atomic<int> descriptor_users_{0};
  std::atomic<std::uint64_t> device_{0}, inode_{0};
  std::atomic<std::size_t> index_{0};
  std::atomic<std::uint64_t> claim_{0};  // 0: detached
  bool ended_ = false;

  // What comes along when a new segment must be joined.
  Control control_;
  std::uint64_t control_generation_ = 0;
  Figures figures_;
  void write_held() noexcept;
  std::atomic<std::uint64_t> held_{0};
  Settings settings_;
  Need need_;

  std::atomic<std::uint32_t> bell_seen_{0};
  std::uint64_t swept_ns_ = 0, tried_ns_ = 0;
  std::string told_;  // the problem said last
};

}  // namespace kvshim::segment
