// The gate: the one place through which GPU work that may touch a pool is
// submitted. Hooks translate a driver call into the ranges it touches; the gate
// waits for a running release slice, orders streams, puts guards in front, and
// calls the driver. Hooks know nothing of extents, the mechanism nothing of hooks.
#pragma once

#include <cuda.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "vmm/guard_abi.h"

namespace kvshim::preload {

/// What a stream handle of 0 means for the entry point: the legacy default
/// stream, or (variants _ptsz and _ptds) the calling thread's own.
enum class StreamFlavor : std::uint8_t { kLegacy, kPerThread };

struct StreamRef {
  CUstream handle = nullptr;
  StreamFlavor flavor = StreamFlavor::kLegacy;
  /// The handle that means the same through every entry point.
  CUstream explicit_handle() const {
    if (handle != nullptr) return handle;
    return flavor == StreamFlavor::kPerThread ? CU_STREAM_PER_THREAD : CU_STREAM_LEGACY;
  }
};

/// A range of addresses that a piece of work may touch. Ranges outside every
/// pool are allowed and ignored; ranges may overlap.
struct Access {
  CUdeviceptr address = 0;
  std::size_t bytes = 0;
  bool writes = false;
  /// Of a reading access: nothing is looked at that was never written, but for a
  /// writer's first slots (a profile's word). Else an absent granule of the range is
  /// not swapped while the work is unfinished, except behind a guard.
  bool stays_in_written = false;
};

/// Non-owning reference to a callable `CUresult()`; valid only while the call
/// that received it runs.
class SubmitRef {
 public:
  template <class F>
  SubmitRef(const F& f) noexcept  // NOLINT(google-explicit-constructor): a view, like string_view
      : object_(&f), call_([](const void* object) { return (*static_cast<const F*>(object))(); }) {}
  CUresult operator()() const { return call_(object_); }

 private:
  const void* object_;
  CUresult (*call_)(const void*);
};

/// One pool as queries see it: like one cuMemAlloc allocation.
struct PoolView {
  CUdeviceptr base = 0;
  std::size_t bytes = 0;
  CUdevice device = 0;
  CUcontext context = nullptr;
  std::uint64_t buffer_id = 0;      // as CU_POINTER_ATTRIBUTE_BUFFER_ID, unique per pool
  std::size_t requested_bytes = 0;  // what queries tell; `bytes` is whole granules
};

/// A pin keeps what it names resident for good, or until unpinned.
using PinId = std::uint64_t;
inline constexpr PinId kNoPin = 0;

namespace gate_detail {
// The arena's bounds: 0 and 0 before the first pool, and then never changed
// (the base is written first). Read without a lock on every launch.
extern std::atomic<std::uint64_t> arena_base;
extern std::atomic<std::uint64_t> arena_bytes;
}  // namespace gate_detail

/// Whether `word` lies inside the arena: one subtraction and one comparison.
/// False for everything while no pool was ever made. Any thread, no lock.
inline bool in_arena(std::uint64_t word) noexcept {
  const std::uint64_t bytes = gate_detail::arena_bytes.load(std::memory_order_acquire);
  return word - gate_detail::arena_base.load(std::memory_order_relaxed) < bytes;
}

/// Whether [address, address + bytes) meets the arena (bytes may be 0: a point).
inline bool meets_arena(std::uint64_t address, std::size_t bytes) noexcept {
  const std::uint64_t size = gate_detail::arena_bytes.load(std::memory_order_acquire);
  const std::uint64_t base = gate_detail::arena_base.load(std::memory_order_relaxed);
  return size != 0 && (address - base < size || (address < base && bytes > base - address));
}

/// The live pool that holds `address`, or nothing. Any thread; takes a shared
/// lock for some nanoseconds, never waits for the GPU.
std::optional<PoolView> find_pool(CUdeviceptr address) noexcept;

/// All live pools that meet the range (for queries over ranges). Same rules.
std::vector<PoolView> pools_in(CUdeviceptr address, std::size_t bytes);

/// Submits work. `accesses` lists what it may touch; `linear` (may be null)
/// is the known writer's form: then its destinations need not be listed as
/// writing accesses, but must be listed as reading ones. Written ranges are
/// made present in stream order by a guard put in front (also inside a
/// capture, where the guard becomes a node). `submit` calls the real driver
/// function exactly once, or not at all when the guard itself could not be
/// launched: then that launch's error is returned. Work that touches no pool
/// is submitted directly. Never waits for the GPU (except as the real call
/// does), waits at most a release slice (5 ms) or a restore (10 ms).
/// `read` (may be null): the block table of a reader, asked for by wants_read(). What it
/// names is marked in front of the work; a mark that can't be had is left out.
CUresult run_work(StreamRef stream, std::span<const Access> accesses,
                  const vmm::LinearWrite* linear, SubmitRef submit,
                  const vmm::TableRead* read = nullptr);

/// Whether it is to be found out which blocks a reader of `pool` reads: now and then, and
/// in each capture; of sibling pools, for one only. Any thread; some nanoseconds where not.
bool wants_read(StreamRef stream, const PoolView& pool) noexcept;
/// Work reads the pool that holds `address`, and nobody can tell which blocks. `in_graph`: it
/// may do so again at any time. Any thread, no lock.
void read_unseen(CUdeviceptr address, bool in_graph) noexcept;
/// Before a node of some graph gets other parameters. Any thread, no lock.
void read_nodes_change() noexcept;

/// One of several pieces of work that a single driver call starts.
struct ListedWork {
  StreamRef stream;
  std::vector<Access> accesses;
  std::optional<vmm::LinearWrite> linear;
};

/// The same for a call that starts work in several streams at once (a launch on several
/// devices). All guards come before all of the work, which may be waiting for each other:
/// no order is made among the pieces, only between them and everything else.
CUresult run_list(std::span<const ListedWork> list, SubmitRef submit);

/// The work that is being submitted (for use inside its `submit`) runs beside guards in no order
/// with them: until it has finished, nothing that it may read is moved for a guard.
void comes_in_no_order(std::span<const Access> accesses);

/// A fill of one range. When `zero` and everything it would fill is known to
/// be zero and untouched by unfinished work, nothing is submitted and
/// CUDA_SUCCESS returned (a dropped fill); otherwise like run_work.
CUresult run_fill(StreamRef stream, CUdeviceptr address, std::size_t bytes, bool zero,
                  SubmitRef submit);

/// What the driver makes of a call that writes pages that are absent, and so read-only.
enum class WhileAbsent : std::uint8_t {
  kRefused,  // copies and fills: INVALID_VALUE, so it is not called before they are there
  kPerhaps,  // what names them otherwise: it is asked first
};

/// Calls a driver function that looks at the mappings of pool addresses at the
/// time of the call (copies, fills, stream memory operations, nodes of graphs). No swap of what
/// it touches is under way meanwhile (vmm/mapping_look.h). What the surrounding submission
/// writes has to be there for copies and fills: the call waits until the guard in front
/// has run, for at most 5 s: a stream that waits for the calling thread never
/// gets there, and the driver is called for its error then (presence.cpp). In a
/// capture the written ranges are made present first and stay so for good. Use
/// inside the `submit` of copies and fills; outside of any it is not known what is looked at.
CUresult retry_over_holes(SubmitRef call, WhileAbsent absent = WhileAbsent::kRefused);

/// The same for a call that checks ranges of which pin() has begun to make them
/// present (the instantiation of graphs). For use outside `submit`.
CUresult retry_while_absent(std::span<const Access> ranges, SubmitRef call);

/// Makes the ranges resident (in order after all pool work submitted so far)
/// and keeps them until unpin(). For graphs whose nodes carry no guards.
/// Returns kNoPin with `*result` set when it failed; kNoPin and CUDA_SUCCESS
/// when no range meets a pool.
PinId pin(std::span<const Access> ranges, CUresult* result);
void unpin(PinId pin) noexcept;

/// The pool at `address` has escaped (reached by a way the gate can't see):
/// resident for good, in order before work submitted later on `stream`.
/// `how` becomes one log line. Returns the guard launch's result.
CUresult escape(StreamRef stream, CUdeviceptr address, const std::string& how);

/// Host memory that is about to be copied to the device: finds exact pool
/// bases and addresses seen as launch arguments (aligned 8-byte words) and
/// lets those pools escape. Called by the copy hooks before submission; cheap
/// when no pool exists. `host` must be readable for `bytes`.
void scan_payload(StreamRef stream, const void* host, std::size_t bytes);

/// Remembers a pool address that was a launch argument (for scan_payload).
void remember_argument(std::uint64_t address) noexcept;

/// Stream and context life cycle, called by the hooks in the thread that makes
/// the call, before (or after) the real function. Cheap for streams that never
/// carried pool work.
void before_stream_destroy(CUstream stream) noexcept;
void before_capture(StreamRef stream) noexcept;
void after_capture(StreamRef stream) noexcept;
/// Before a call by which `stream` (none: any stream) may come to wait for a host thread
/// or for another stream: the end of its pool work gets an event in front of the wait, so
/// that who has to wait for that work doesn't wait for the rest as well. At most two
/// driver calls, none where an event is there already.
void before_wait(std::optional<StreamRef> stream) noexcept;
void before_context_destroy(CUcontext context) noexcept;
/// When it has been destroyed.
void after_context_destroy(CUcontext context) noexcept;

/// `wait` waits for all work of the context (null: the current one). What is lost
/// of streams that were destroyed has then ended, too.
CUresult wait_for_context(CUcontext context, SubmitRef wait) noexcept;

/// Whether the stream is capturing now (false on error).
bool is_capturing(StreamRef stream) noexcept;

/// Counts and, once for each kernel, logs an unknown kernel that named a pool.
/// `words` describes them ("p0+104/2688"). Any thread.
void note_unknown_kernel(const char* name, const std::string& words, std::size_t reach_bytes);

}  // namespace kvshim::preload
