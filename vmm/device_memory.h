// The elastic memory of one device: its pools, and every change of an extent.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "vmm/arena.h"
#include "vmm/device_kernels.h"
#include "vmm/driver.h"
#include "vmm/event_queue.h"
#include "vmm/extent_name.h"
#include "vmm/freed_addresses.h"
#include "vmm/fronts.h"
#include "vmm/gpu_room.h"
#include "vmm/host_store.h"
#include "vmm/limits.h"
#include "vmm/mapper.h"
#include "vmm/move_list.h"
#include "vmm/pool.h"
#include "vmm/pool_table.h"
#include "vmm/pressure.h"
#include "vmm/read_marks.h"
#include "vmm/staging.h"
#include "vmm/statistics.h"

namespace kvshim::vmm {

struct DeviceSettings {
  std::uint64_t host_budget = 0;  // bytes
  std::uint64_t read_ahead_max = order_bytes(kMaxOrder);
  double read_ahead_share = 0.25;  // of what was written (ReadAheadLimits)
  bool rows_ahead = true;          // rows made present before they are asked for
  bool follow_reads = false;       // readers with a block table are asked what they read
  int host_numa_node = 0;
  Pressure* pressure = nullptr;  // other processes; null: none. Outlives the device
};

/// What the server tells a guard.
struct FaultAnswer {
  AnswerKind kind = AnswerKind::kPresent;
  std::vector<AbiRun> runs;
  std::vector<AbiCopy> copies;
  /// Nothing was made or moved: what was asked for was present and watched (watch()).
  bool only_watched = false;
  /// For other threads' work on the memory, before its own began.
  std::chrono::nanoseconds waited{};
};

struct PoolFigures {
  std::uint64_t id = 0, bytes = 0, resident = 0, parked = 0, absent = 0;
  CUdeviceptr base = 0;
  std::string group;
  bool pinned = false;
};

/// Thread-safe; one mutex, never held while waiting for the GPU (I7), taken by
/// hooks, the fault server and the releasing thread.
class DeviceMemory {
 public:
  DeviceMemory(const DriverApi& driver, Arena& arena, PoolTable& table, CUdevice device,
               CUcontext context, std::unique_ptr<DeviceKernels> kernels, DeviceSettings settings);

  // --- allocation (hooks) -------------------------------------------------
  /// Makes a pool of `bytes` (> 0), all absent. OUT_OF_MEMORY when a plain
  /// allocation of that size would not have fitted. `group` names the sibling
  /// group. Waits only for the device's own stream (clearing of reused bits).
  CUresult allocate(std::size_t bytes, const std::string& group, CUcontext context,
                    const PoolRecord** record);
  /// Releases a pool; no work that may touch it may be unfinished (I4). Guards of other pools
  /// may be copying its parked pages (its row): they are waited for, and
  /// NOT_READY, with nothing done, when that takes longer than `patience`: then it is to be
  /// tried again. INVALID_VALUE when `base` is not a pool's base.
  CUresult free(CUdeviceptr base, std::chrono::milliseconds patience = std::chrono::seconds(1));
  /// What guards were told to copy and have not done is void, as is what they were told to be
  /// present and may not have noted: they gave up, or their context has failed. REQUIRES: the
  /// gate is closed and all work has finished, or the context ends.
  void no_guard_runs();
  /// At the end of the device's context, after all pools were freed: what would
  /// wait for cleared bits goes back to the arena (the bitmap ends, too).
  void give_addresses_back();
  /// cuMemGetInfo as the engine would see it if its pools and its neighbours' were
  /// plain allocations, and the neighbours' were not there: the driver's figure less
  /// what own pools don't hold, and what pools of neighbours hold (I10). Within the
  /// limit in force, which then is the total. The device's context must be current.
  CUresult memory_info(std::size_t* free, std::size_t* total) const;

  // --- room (device_memory_room.cpp) ----------------------------------------
  /// What the operator allows; the thread that hears it writes it here.
  Limits& limits() { return limits_; }
  const Limits& limits() const { return limits_; }
  /// Other processes; may be null.
  Pressure* pressure() const { return settings_.pressure; }
  /// Bytes that these granules (with `rows`, those of their siblings as well) need and
  /// the GPU has no room for, so that neighbours could help. 0: there is room, or it is
  /// the process's own limit that stands against it. `set_apart`: free bytes that are
  /// somebody else's. The device's context must be current.
  std::uint64_t lacking(std::span<const AbiRun> wanted, bool rows, std::uint64_t set_apart);
  /// The same for parked contents that are to come back.
  std::uint64_t lacking(std::uint64_t bytes, std::uint64_t set_apart);
  /// Free memory of the GPU as the driver says it now; UINT64_MAX when it doesn't.
  std::uint64_t gpu_free();
  /// What gpu_free() said last, for figures: 0 when it never did or not for two seconds.
  std::uint64_t gpu_free_seen() const;
  /// GPU memory that pools leave free for engines; 0 before the first pool.
  std::uint64_t floor() const;
  /// By how much the process is above its limit, of what pools could give back.
  std::uint64_t over_limit() const;
  /// What neighbours could get of the pools: what is above the reserve.
  std::uint64_t spare() const;

  // --- faults (server thread) ---------------------------------------------
  /// With `rows`, the siblings of what is asked for become present as well: before
  /// the answer, or, when `finished_epoch` is told (see step_ahead()) and nothing
  /// forbids it, by step_ahead() after it, in the order in which a model's layers
  /// will ask.
  FaultAnswer fault(std::span<const AbiRun> wanted, bool rows,
                    std::optional<std::uint64_t> finished_epoch = std::nullopt,
                    GuardPlace place = GuardPlace::kFirst);
  FaultAnswer copied(std::optional<std::uint64_t> finished_epoch = std::nullopt);
  /// Unpinned extents that were written last, at most `most`: whose bits are to be cleared so
  /// that a guard asks soon. In host memory, too, where writing goes on for want of room. Any
  /// thread.
  std::vector<ExtentName> watch_written_last(std::size_t most);
  /// Before the submission of work in no order with what other threads submit: until all
  /// work up to `epoch` (the gate's) has finished, what is parked is served in place, since
  /// a copy of it could miss what such work writes there. Any thread.
  void comes_in_no_order(std::uint64_t epoch);
  /// Whether all such work has finished by `finished_epoch`, or there was none. Any thread.
  bool all_in_order(std::optional<std::uint64_t> finished_epoch) const;

  // --- ahead of the faults ---------------------------------------------------
  // An absent extent can be swapped while the GPU works when nothing that works
  // may look at it: known writers and the readers that a profile vouches for
  // (they stay in what was written) don't. The rest is told by reads_anywhere().

  /// Before the submission of work that may read an absent granule of these runs,
  /// and of which nothing vouches that it doesn't: until all work up to `epoch`
  /// (the gate's) has finished, absent extents are swapped behind guards only.
  void reads_anywhere(std::span<const AbiRun> runs, std::uint64_t epoch);
  /// A known writer's first block of slots, which readers may look at without it
  /// having been written (what the padding of a batch names). Any thread; cheap when its
  /// address is known.
  void note_first_slots(CUdeviceptr address, std::uint64_t bytes);
  /// One step (about a swap) of making rows present that sequences of faults will
  /// reach next. Server thread. False: nothing to do for now. `finished_epoch`: all
  /// work up to it has finished.
  bool step_ahead(std::uint64_t finished_epoch);
  /// Nothing runs any more: what step_ahead() had left to do is not wanted.
  void nothing_ahead();
  /// Makes the granules present in the calling thread, without a guard; false when
  /// that is not safe now, neighbours may make room that the GPU lacks, or there is no
  /// memory: then a guard must do it.
  bool make_present_now(std::span<const AbiRun> runs, std::uint64_t finished_epoch);
  /// With the gate closed and all work finished: one step of splitting absent
  /// extents where sequences will begin, so that first faults needn't. False:
  /// nothing left to split.
  bool split_at_first_slots();

  // --- pins (hooks) -------------------------------------------------------
  /// Keeps the granules of the range from being released; presence itself is
  /// brought about by a fixed guard in stream order.
  void pin(CUdeviceptr address, std::size_t bytes);
  /// Nothing happens when `pool` (an id) lives no more: its pins went with it.
  void unpin(std::uint64_t pool, CUdeviceptr address, std::size_t bytes);
  void pin(std::span<const AbiRun> runs);
  /// Whether every granule of the runs is present (or in no pool any more).
  bool all_present(std::span<const AbiRun> runs) const;
  /// The runs of present granules that meet the range.
  std::vector<AbiRun> present_runs(CUdeviceptr address, std::size_t bytes) const;
  /// Granule runs of the range inside its pool; empty when there is none.
  std::vector<AbiRun> granule_runs(CUdeviceptr address, std::size_t bytes) const;

  // --- moves beside work (device_memory_moves.cpp; releasing thread, but for the last two) ----
  // Copied by the own stream and swapped in when some guard asks: it begins, bits are cleared, a
  // guard asks, the copies, another one asks.

  std::uint64_t bytes_on_their_way(MoveTo to) const;
  /// Begins to bring back parked blocks, the first ones first, with what is on its way at most
  /// `most` bytes, and leaves `headroom` bytes of the GPU. Returns those whose bits are to be
  /// cleared. Several calls of the driver for each block, the lock held for one.
  std::vector<ExtentName> begin_to_bring_home(std::span<const ExtentName> blocks,
                                              std::uint64_t most, std::uint64_t headroom);
  /// The blocks that are parked, unpinned, not cold, and were read at `tick` or later, the most
  /// recently used first.
  std::vector<ExtentName> read_while_parked(std::uint64_t tick) const;
  /// Those that were written after `written_after` (a serial), of what was parked as cold only
  /// if `cold_too`: when that is the last release's, what was given away in need since then or
  /// made in host memory for want of room.
  std::vector<ExtentName> parked_since(std::uint64_t written_after, bool cold_too) const;
  /// Begins to park blocks of resident extents (blocks_to_park()) likewise. May pin host memory.
  std::vector<ExtentName> begin_to_send_away(std::span<const ExtentName> blocks,
                                             std::uint64_t most);
  /// Resident and unpinned extents away from the fronts that were neither asked for nor seen
  /// to be read at `tick` or later.
  std::vector<ExtentName> unused_since(std::uint64_t tick) const;
  /// The bits of what has begun are clear.
  void move_bits_cleared();
  /// Whether some block waits for a guard to ask (or for its bits to be cleared).
  bool moves_need_a_question() const;
  /// What is to be copied now: it stays where it is until moves_copied(), and its pool
  /// can't be freed. REQUIRES: restores and releases are kept away (Releaser's lock).
  std::vector<AbiCopy> move_copies();
  /// These copies have been done, or, if not `well`, have ended without.
  void moves_copied(bool well);
  enum class MoveEnd : std::uint8_t { kVoid, kToGpu, kAll };
  /// Gives up those whose copies are void; with kToGpu also those to the GPU.
  void end_moves(MoveEnd which);
  /// Before work that writes present pages without a guard. Any thread.
  void written_unasked(std::span<const AbiRun> runs);
  /// Before a guard is told to give up. Watchdog thread; takes no lock.
  void guard_gives_up() noexcept { give_ups_.fetch_add(1); }

  // --- release (releasing thread, or a submitter under the closed gate) ----
  /// Unpinned extents in a state, of all pools, most recently written first;
  /// with a tick, only those parked (and last written in place) until then.
  std::vector<ExtentName> extents_in(ExtentState state,
                                     std::uint64_t parked_until = UINT64_MAX) const;
  /// The releasing thread's clock: the age of what is parked.
  void set_tick(std::uint64_t tick) noexcept { tick_.store(tick, std::memory_order_relaxed); }
  std::uint64_t tick() const noexcept { return tick_.load(std::memory_order_relaxed); }
  /// The blocks in which resident extents are parked best, most recently written
  /// first: adjacent ones that fill an aligned block become one, except near the
  /// fronts, where the next writes come, and for tails.
  std::vector<ExtentName> blocks_to_park(std::span<const ExtentName> extents) const;
  /// The blocks in which what is parked comes back best, most recently used first.
  std::vector<ExtentName> blocks_to_return() const;
  /// The halves of a block.
  static std::array<ExtentName, 2> halves(const ExtentName& block);

  /// Host memory for a copy of a block. From the slabs that are there; when there
  /// are only smaller ones, kSplit; pins host memory, without the lock, when there
  /// are none. Any number may be prepared at a time.
  Preparation prepare_park(const ExtentName& block, PreparedPark* prepared);
  void cancel_park(const PreparedPark& prepared);
  /// Swaps. REQUIRES: gate closed, no work that may touch the extents unfinished,
  /// residency bits cleared. False: the extents changed meanwhile (nothing done) or
  /// the driver refused (the old mappings are back).
  bool swap_to_parked(const PreparedPark& prepared, std::uint64_t tick);
  /// Makes extents absent, merging neighbours except near the last written
  /// slots. Returns the bytes that were forgotten, in GPU and host memory
  /// (handles are released by release_retired(), outside the gate). Tails are
  /// never dropped by rule.
  std::uint64_t swap_to_absent(std::span<const ExtentName> extents, ProofOfAbsence proof);
  /// Releases a few of the handles that swaps took out: not under the gate. False
  /// when none is left.
  bool release_some_retired();
  void release_retired() {
    while (release_some_retired()) continue;
  }
  /// Waits while a guard's question is open, for at most 2 ms: what comes next would hold its
  /// answer up. Not while the answer itself waits for memory. False: it is still open. Any
  /// thread but the fault server's; not under a lock.
  bool let_guards_first() const;
  /// The fault server waits for memory, or no more.
  void answer_waits_for_room(bool waits) noexcept { answer_waits_for_room_.store(waits); }

  /// Coming back: GPU memory and staging for a block that is parked, then the swap
  /// (as swap_to_parked()). At least `headroom` bytes of the GPU are left to others.
  Preparation prepare_return(const ExtentName& block, std::uint64_t headroom,
                             PreparedPark* prepared);
  bool swap_to_resident(const PreparedPark& prepared);
  void cancel_return(const PreparedPark& prepared);

  /// Quiet-moment work: makes one host slab ahead, of the orders that a release
  /// would need now, or maps windows of some. False when there is nothing left to do.
  bool make_slabs_ahead();
  /// The opposite, once all is parked: unmaps some of the windows, of slabs with contents and of
  /// others. False when none is left.
  bool unmap_spare_windows();
  std::uint64_t oldest_parked_tick() const;
  /// What was written later has a larger ExtentName::written.
  std::uint64_t newest_serial() const;

  // --- cold rows (device_memory_cold.cpp; releasing thread) -------------------
  // A clock: bits of resident extents are cleared; whoever writes one then asks, and is
  // answered at once. What nobody has asked for by the next look was not written. Which
  // extents are cold is a guess in one respect only: what is written without a guard (a
  // copy into present pages) is not seen. Nothing depends on it: see Extent::cold.

  /// Marks the extents that are to be watched from now on: resident, unpinned, not near
  /// the fronts. The caller clears their bits. REQUIRES: gate closed and all work
  /// finished, so that no guard is about to set one.
  std::vector<ExtentName> watch(std::uint64_t tick);
  /// Their bits could not be cleared.
  void forget_watch(std::span<const ExtentName> extents);
  /// What was watched since `until` (a tick) or longer and not read since, as far as readers
  /// are followed, most recently written first. What was written longest ago of all is not
  /// among them, `keep` bytes of it (at most a 32nd of the pools), and may come back if it was
  /// parked as cold: under FIFO reuse it is rewritten next, or a prefix keeps it, which is
  /// read again and again.
  std::vector<ExtentName> cold_extents(std::uint64_t until, std::uint64_t keep);
  /// When readers are asked.
  ReadMarks& read_marks() { return read_marks_; }
  const ReadMarks& read_marks() const { return read_marks_; }
  /// Whether a reader of this pool (an id) is to be marked: of siblings, which are read by
  /// the same table, only the one of which a reader came first. Any thread.
  bool reads_are_marked(std::uint64_t pool);
  /// Takes over what readers marked (DeviceKernels::marks_taken()): what lies in a row of it
  /// is in use at `tick`, and was parked as cold by mistake. One pool at a time under the
  /// lock.
  void note_reads(std::span<const std::uint32_t> marks, std::uint64_t tick);
  /// What a neighbour in need gets of a process that merely pauses: resident bytes that
  /// are away from the fronts and had their last fault or return before `tick`.
  std::uint64_t untouched_since(std::uint64_t tick) const;
  struct ParkedBytes {
    std::uint64_t returnable = 0, cold = 0;
  };
  ParkedBytes parked_bytes() const;
  /// Idleness has come: drop_after counts from `tick` for what was parked as cold, which
  /// may have been read until now. Unless it `stays_cold`, it comes back as the rest does.
  void cold_becomes_idle(std::uint64_t tick, bool stays_cold);

  // --- views ---------------------------------------------------------------
  std::vector<PoolFigures> pools() const;
  PhysicalBytes physical() const;
  std::size_t pool_count() const;
  std::uint64_t host_in_use() const;
  std::uint64_t host_budget() const { return settings_.host_budget; }
  /// I3, I5 and the pools' own invariants; empty when all hold.
  std::string broken_invariant() const;

  DeviceKernels& kernels() { return *kernels_; }
  Statistics& statistics() { return statistics_; }
  EventQueue& events() { return events_; }
  CUdevice device() const { return device_; }
  CUcontext context() const { return context_; }
  const Arena& arena() const { return arena_; }

 private:
  struct Group {
    std::string name;
    std::vector<Pool*> pools;
    Fronts fronts;
    /// Offsets of the writers' first slots: readers may look there at any time.
    std::vector<std::uint32_t> first_slots;
    std::uint64_t marked_pool = 0;  // id of reads_are_marked(); 0: no reader came yet
  };
  struct Pending {
    Pool* pool;
    ExtentName extent;
    PreparedPart part;
  };
  struct Retired {
    std::uint8_t order;
    CUmemGenericAllocationHandle handle;
    bool host;
  };

  void unmap_retired_staging(std::size_t most);
  CUresult clear_freed(std::span<const GranuleRun> freed);
  void leave_staging(Staging& staging, CUdeviceptr address, std::uint64_t bytes);
  Pool* pool_of_granule(GranuleIndex granule) const;
  Extent* named_extent(const ExtentName& name, ExtentState state, Pool** pool) const;
  CUdeviceptr address_of(const Pool& pool, std::uint32_t offset) const {
    return arena_.address(pool.first + offset);
  }
  using Extents = Pool::Extents;
  struct Block {
    Pool* pool = nullptr;
    Extents::iterator first, last;  // its extents: [first, last)
  };
  // faults
  FaultAnswer answer(std::span<const AbiRun> wanted, bool rows,
                     std::optional<std::uint64_t> finished_epoch);
  bool note_written(Extent& extent);
  /// By the guard of one fault; the rest is served in place.
  static constexpr std::uint64_t kMostPromotedAtOnce = std::uint64_t{192} << 20;
  void want_promotion(Pool& pool, std::uint32_t offset);
  bool moves_later(const AbiRun& granule);
  bool parked_may_move(std::optional<std::uint64_t> finished_epoch) const;
  void finish_pending(std::vector<AbiRun>* runs);
  void drop_pending();
  // moves beside work
  bool is_still_itself(const Move& move, Block* block);
  void void_moves_in(Pool& pool, std::uint32_t offset, std::uint32_t count);
  /// A guard asks: what holds still from now on, and what is swapped in. Whether something was.
  bool step_moves(std::span<const AbiRun> wanted, bool may_move, GuardPlace place);
  /// The ticket of the guards' last question; of the one that has no answer yet, or 0.
  std::uint32_t last_question() const;
  std::uint32_t open_question() const;
  bool swap_moved(const Move& move, std::size_t* mappings);
  bool guards_give_up() const;
  std::vector<ExtentName> written_last_locked(std::size_t most) const;
  bool may_begin(const ExtentName& name, MoveTo to, Block* block);
  bool may_begin(const ExtentName& name, MoveTo to);
  bool begin_move(const PreparedPark& prepared, MoveTo to);
  void forget_move(const Move& move);
  void forget_moves_of(const Pool& pool);
  bool swap_in(const Block& block, const PreparedPark& prepared);
  bool swap_out(const Block& block, const PreparedPark& prepared, std::uint64_t tick, bool cold);
  /// Extents of one pool that a fault asked for, which its siblings need as well.
  struct Row {
    std::size_t group;
    Pool* pool;
    Piece piece;
  };
  std::vector<Row> make_wanted_present(std::span<const AbiRun> wanted, std::vector<AbiRun>* runs);
  void make_row_present(const Row& row, std::vector<AbiRun>* runs);
  /// What of the row is present already.
  void tell_row(const Row& row, std::vector<AbiRun>* runs);
  void make_exactly_present(std::span<const AbiRun> wanted, std::vector<AbiRun>* runs);
  ReadAheadLimits read_ahead_limits() const {
    return {settings_.read_ahead_max, settings_.read_ahead_share};
  }
  GroupHolding holding(const Group& group) const {
    return {mapper_.physical().device, group.pools.size()};
  }
  /// How much is done for an extent when GPU memory is short.
  enum class Need {
    kIfRoom,      // nothing: a sibling, which has faults of its own
    kOneGranule,  // the one granule that is written must be had; read-ahead need not
    kWhole,       // all of it is about to be written
  };
  bool make_present(Pool& pool, std::uint32_t offset, std::uint8_t order, Need need,
                    std::vector<AbiRun>* runs);
  struct LimitTold {
    std::uint64_t limit = 0;  // 0: none
    std::uint64_t taken = 0;  // of it by others, what is no pool
  };
  LimitTold limit_told() const;
  CUresult memory_info_under(const LimitTold& told, std::size_t* free, std::size_t* total) const;
  void tell_why_in_host_memory(std::uint64_t bytes, CUresult refused);
  CUresult create_for_fault(std::uint8_t order, bool must, CUmemGenericAllocationHandle* handle,
                            ExtentState* state);
  std::uint64_t still_to_be_made(std::span<const AbiRun> wanted, bool rows) const;
  // swaps
  bool swap_piece(Pool& pool, const Piece& whole, const Piece& taken,
                  CUmemGenericAllocationHandle handle);
  // parking and coming back
  bool find_block(const ExtentName& name, ExtentState state, Block* block);
  /// Of what is parked, unpinned; the most recently used first.
  std::vector<ExtentName> parked_blocks(const std::function<bool(const Extent&)>& wanted) const;
  std::uint8_t parked_order(const Group& group) const;
  ExtentName name_of(const Pool& pool, Extents::const_iterator extent) const;
  enum class Direction : std::uint8_t { kToHost, kToGpu };
  void add_blocks(const Pool& pool, std::span<const Extents::const_iterator> extents,
                  Direction direction, std::vector<ExtentName>* blocks) const;
  std::array<std::size_t, kOrders> slabs_wanted() const;
  Preparation take_slab(std::unique_lock<std::mutex>& lock, std::uint8_t order, bool in_parts,
                        PreparedPart* part);
  void give_back_slabs(const PreparedPark& prepared);
  void give_back_return(const PreparedPark& prepared);
  bool make_staged(Staging& staging, std::uint8_t order, PreparedPart* part);
  void give_back_staged(Staging& staging, const PreparedPart& part);
  bool swap_block(const Block& block, const ExtentName& name, std::span<const PreparedPart> parts);
  void replace_block(const Block& block, const PreparedPark& by, Extent extent);
  bool map_as_recorded(Pool& pool, std::uint32_t offset, const Extent& extent);
  void make_piece_absent(Pool& pool, const Piece& piece, std::uint64_t* forgotten);
  void collect_absent_pieces(Pool& pool, const Piece& piece,
                             const std::vector<std::uint32_t>& changed, bool merge,
                             std::vector<Piece>* pieces);
  bool near_front(const Pool& pool, const Piece& block) const;
  bool next_writes_come(const Pool& pool, const Piece& block) const;
  std::uint64_t newest_kept(std::uint64_t keep) const;
  void note_reads_of(Pool& pool, const std::vector<bool>& rows, std::uint64_t tick);
  // ahead of the faults
  bool absent_can_be_swapped(std::uint64_t finished_epoch) const {
    return reads_anywhere_epoch_ <= finished_epoch;
  }
  bool all_present_locked(std::span<const AbiRun> runs) const;
  bool holds_first_slot(const Pool& pool, const Piece& piece) const;
  bool may_be_read_unwritten(const Pool& pool, const Piece& absent) const;
  /// kNothing: all of the piece is present, or its rest is left to guards.
  enum class Ahead : std::uint8_t { kNothing, kMade, kNoRoom };
  /// Makes the first absent extent of the piece present.
  Ahead make_next_present(Pool& pool, const Piece& piece, std::vector<AbiRun>* made);
  bool step_ahead_of(Group& group);
  bool row_can_follow(const Row& row, std::optional<std::uint64_t> finished_epoch) const;
  void let_row_follow(const Row& row);
  bool step_following_row();
  bool make_now(const AbiRun& run);
  bool split_absent(Pool& pool, std::uint32_t offset);
  void broken(const std::string& what);
  void check(const char* after) const;
  std::string broken_invariant_locked() const;

  const DriverApi& driver_;
  Arena& arena_;
  PoolTable& table_;
  const CUdevice device_;
  const CUcontext context_;
  const DeviceSettings settings_;
  Limits limits_;
  std::atomic<std::uint64_t> free_seen_{0}, free_seen_at_{0};  // at: microseconds
  const std::unique_ptr<DeviceKernels> kernels_;
  ReadMarks read_marks_;
  Statistics statistics_;
  EventQueue events_;

  mutable std::mutex mutex_;
  Mapper mapper_;
  GpuRoom room_;
  HostStore host_;
  Staging fault_staging_, return_staging_;
  std::map<GranuleIndex, std::unique_ptr<Pool>> pools_;  // by first granule
  std::unordered_map<std::uint64_t, Pool*> pools_by_id_;
  std::unordered_map<std::uint64_t, const PoolRecord*> records_;
  std::deque<PoolRecord> every_record_;  // kept for readers that still hold one (PoolTable)
  std::vector<Group> groups_;
  LimitTold sized_under_;         // when there was no pool last; allocating_ held
  std::vector<Pending> pending_;  // promotions that wait for the guard's copy
  std::vector<AbiRun> pending_wanted_;
  bool pending_rows_ = false;
  MoveList moves_;
  std::atomic<std::uint64_t> give_ups_{0};  // guards were told to give up
  bool asked_watched_ = false;              // the fault that is being answered met a watched extent
  std::vector<Retired> retired_;
  struct RetiredStaging {
    CUdeviceptr address;
    std::uint8_t order;
  };
  std::vector<RetiredStaging> retired_staging_;
  std::uint64_t preparing_device_ = 0;  // bytes of GPU memory that prepared returns hold
  FreedAddresses freed_;
  std::mutex allocating_;  // orders allocations; taken before mutex_
  std::uint64_t serial_ = 0;
  std::uint64_t reads_anywhere_epoch_ = 0;
  std::atomic<bool> answer_waits_for_room_{false};
  std::uint64_t no_order_epoch_ = 0;  // of comes_in_no_order(); 0: never
  /// A row whose siblings are still to be made: pools in the order of the layers.
  struct FollowingRow {
    std::size_t group;
    std::vector<Piece> pieces;  // K and V
    std::size_t next;           // index of the pool in the group
    std::size_t left;           // pools
  };
  std::vector<FollowingRow> following_rows_;
  std::atomic<bool> look_ahead_{false};  // step_ahead() may find something
  std::mutex first_slots_mutex_;         // taken before mutex_
  std::unordered_set<CUdeviceptr> known_first_slots_;
  std::atomic<std::uint64_t> tick_{0};
  std::string broken_;  // first invariant that broke for good
};

}  // namespace kvshim::vmm
