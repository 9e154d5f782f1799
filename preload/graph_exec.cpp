#include "preload/graph_exec.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "preload/graph_capture.h"
#include "preload/graph_waits.h"
#include "preload/handle_table.h"
#include "preload/never_destroyed.h"

namespace kvshim::preload {

namespace {

using Accesses = std::vector<Access>;

/// A range kept present, and the pool that it was of: the same addresses in a
/// later pool are not covered by it.
struct PinnedRange {
  Access range;
  std::uint64_t pool = 0;
};

struct ExecState {
  Accesses touched;                 // submitted with each launch
  std::vector<PinnedRange> pinned;  // what `pins` keep present
  std::vector<PinId> pins;
  bool pin_all = false;  // launched or changed by the device
  // Guards are among its nodes, and others that stand in no order with them: what moves when a
  // guard asks, these may be reading.
  bool in_no_order = false;
  bool has_own_kernels = false;  // GraphReach::has_own_kernels

  bool empty() const { return touched.empty() && pins.empty() && !pin_all; }
};

/// One for each handle value, kept when the executable goes: see HandleTable.
struct ExecRecord {
  std::atomic<bool> known{false};  // false: reaches nothing
  std::mutex mutex;                // never held across a driver call
  std::shared_ptr<const ExecState> state;
  /// Until its graph was looked at: those made before the first pool never were.
  std::atomic<bool> waits{true};
  std::atomic<CUstream> launched_in{nullptr};  // last; the explicit handle
};

using ExecTable = HandleTable<ExecRecord>;
NeverDestroyed<ExecTable>& all_executables() noexcept {
  static NeverDestroyed<ExecTable> executables;
  return executables;
}
ExecTable& table() noexcept { return *all_executables(); }

std::shared_ptr<const ExecState> state_of(CUgraphExec exec) noexcept {
  ExecRecord* const record = table().find(exec);
  if (record == nullptr || !record->known.load(std::memory_order_acquire)) return nullptr;
  const std::lock_guard lock(record->mutex);
  return record->state;
}

/// Installs the state (null: reaches nothing) and returns the one before. When
/// the table can't take the handle, the state stays with `*state`: false.
bool exchange_state(CUgraphExec exec, std::shared_ptr<const ExecState>* state) noexcept {
  ExecRecord* const record = *state != nullptr ? table().find_or_add(exec) : table().find(exec);
  if (record == nullptr) return *state == nullptr;
  const std::lock_guard lock(record->mutex);
  record->state.swap(*state);
  record->known.store(record->state != nullptr, std::memory_order_release);
  return true;
}

/// The handle's record starts anew with an executable; `waits` is taken for the worst.
void note_waits(CUgraphExec exec, bool waits) noexcept {
  // Without a record it counts as one that waits.
  ExecRecord* const record = waits ? table().find(exec) : table().find_or_add(exec);
  if (record == nullptr) return;
  record->waits.store(waits, std::memory_order_relaxed);
  record->launched_in.store(nullptr, std::memory_order_relaxed);
}

/// Whether its launch may make the stream wait for anybody else. A launch also comes
/// after the executable's launch before, in whatever stream that was.
bool waits_in(CUgraphExec exec, StreamRef stream) noexcept {
  ExecRecord* const record = table().find(exec);
  if (record == nullptr) return true;
  const CUstream now = stream.explicit_handle();
  const CUstream before = record->launched_in.exchange(now, std::memory_order_relaxed);
  return record->waits.load(std::memory_order_relaxed) || (before != nullptr && before != now);
}

void unpin_all(const std::vector<PinId>& pins) noexcept {
  for (const PinId id : pins) unpin(id);
}

bool contains(const Access& range, const Access& wanted) {
  return range.address <= wanted.address && wanted.address - range.address <= range.bytes &&
         wanted.bytes <= range.bytes - (wanted.address - range.address);
}

/// The id of the (first) live pool in the range, 0 when there is none.
std::uint64_t pool_of(const Access& range) {
  const std::vector<PoolView> pools = pools_in(range.address, range.bytes);
  return pools.empty() ? 0 : pools.front().buffer_id;
}

/// Pins what `state` doesn't keep present yet. On failure nothing is added.
CUresult add_pins(ExecState* state, const Accesses& wanted) {
  Accesses missing;
  for (const Access& access : wanted) {
    const std::uint64_t pool = pool_of(access);
    const bool covered =
        std::any_of(state->pinned.begin(), state->pinned.end(), [&](const PinnedRange& pinned) {
          return pinned.pool == pool && contains(pinned.range, access);
        });
    if (!covered) missing.push_back(access);
  }
  if (missing.empty()) return CUDA_SUCCESS;
  state->pins.reserve(state->pins.size() + 1);
  state->pinned.reserve(state->pinned.size() + missing.size());
  CUresult result = CUDA_SUCCESS;
  const PinId id = pin(missing, &result);
  if (result != CUDA_SUCCESS) return result;
  if (id != kNoPin) state->pins.push_back(id);
  for (const Access& access : missing) state->pinned.push_back({access, pool_of(access)});
  return CUDA_SUCCESS;
}

/// The real call after add_pins(): the driver refuses graphs with copies and fills
/// whose destination is still read-only.
CUresult submit_pinned(const ExecState& state, SubmitRef submit) {
  Accesses ranges;
  for (const PinnedRange& pinned : state.pinned) {
    // Another pool at these addresses is nobody's to make present.
    if (pool_of(pinned.range) == pinned.pool) ranges.push_back(pinned.range);
  }
  for (Access& range : ranges) range.writes = true;
  return retry_while_absent(ranges, submit);
}

void add_touched(Accesses* touched, const Accesses& more) {
  for (const Access& access : more) {
    const bool known = std::any_of(touched->begin(), touched->end(), [&](const Access& other) {
      return contains(other, access) && (access.stays_in_written || !other.stays_in_written);
    });
    if (!known) touched->push_back(access);
  }
}

void note(const GraphReach& reach) {
  for (const GraphReach::UnknownKernel& kernel : reach.unknown_kernels) {
    note_unknown_kernel(kernel.name.c_str(), kernel.words, kernel.bytes);
  }
}

/// The pins taken for a call that may still fail.
class PinsUntilKept {
 public:
  explicit PinsUntilKept(ExecState* state) : state_(state), before_(state->pins.size()) {}
  ~PinsUntilKept() {
    if (state_ == nullptr) return;
    for (std::size_t i = before_; i < state_->pins.size(); ++i) unpin(state_->pins[i]);
  }
  PinsUntilKept(const PinsUntilKept&) = delete;
  PinsUntilKept& operator=(const PinsUntilKept&) = delete;
  void keep() { state_ = nullptr; }

 private:
  ExecState* state_;
  std::size_t before_;
};

/// The whole state of an executable made from `graph`.
CUresult prepare(CUgraph graph, ExecState* state) {
  GraphReach reach = reach_of_graph(graph);
  state->touched = std::move(reach.touched);
  if (state->touched.empty()) return CUDA_SUCCESS;
  for (const std::uint64_t word : reach.words) remember_argument(word);
  const bool guarded = graph_is_guarded(graph);
  state->has_own_kernels = reach.has_own_kernels;
  state->in_no_order = reach.has_own_kernels && !guarded;
  // The device may give a reader other parameters: the mark in front of it keeps its own.
  if (reach.device_updatable) read_nodes_change();
  if (state->pin_all || reach.device_updatable) return add_pins(state, state->touched);
  if (guarded) return CUDA_SUCCESS;
  // Nor has it marks in front of its readers.
  for (const Access& access : state->touched) read_unseen(access.address, true);
  note(reach);
  return add_pins(state, reach.written);
}

}  // namespace

CUresult instantiate_graph(CUgraph graph, unsigned long long flags, CUgraphExec* exec,
                           SubmitRef submit) noexcept {
  const bool device_launch = (flags & CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH) != 0;
  try {
    auto state = std::make_shared<ExecState>();
    state->pin_all = device_launch;
    PinsUntilKept pins(state.get());
    bool waits = true;
    if (any_pool_ever() && graph != nullptr) {
      if (const CUresult result = prepare(graph, state.get()); result != CUDA_SUCCESS) {
        return result;
      }
      waits = graph_waits(graph);
    }
    const CUresult result = submit_pinned(*state, submit);
    if (result != CUDA_SUCCESS || exec == nullptr) return result;
    note_waits(*exec, waits);
    // Also when it reaches nothing: the handle may have had a state before.
    std::shared_ptr<const ExecState> exchanged;
    if (!state->empty()) exchanged = state;
    pins.keep();
    // A full table (millions of live handles) leaves the pins in place for ever.
    if (exchange_state(*exec, &exchanged) && exchanged != nullptr) unpin_all(exchanged->pins);
    return result;
  } catch (...) {
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
}

CUresult update_exec(CUgraphExec exec, CUgraph graph, SubmitRef submit) noexcept {
  if (!any_pool_ever() || exec == nullptr || graph == nullptr) return submit();
  try {
    const std::shared_ptr<const ExecState> before = state_of(exec);
    auto state = std::make_shared<ExecState>();
    state->pin_all = before != nullptr && before->pin_all;
    PinsUntilKept pins(state.get());
    if (const CUresult result = prepare(graph, state.get()); result != CUDA_SUCCESS) return result;
    const CUresult result = submit_pinned(*state, submit);
    if (result != CUDA_SUCCESS) {
      // It may have taken some of the parameters: keep both sets. Readers may have new ones
      // behind marks that have the old ones.
      read_nodes_change();
      if (before == nullptr && state->empty()) return result;
      if (before != nullptr) {
        add_touched(&state->touched, before->touched);
        state->in_no_order = state->in_no_order || before->in_no_order;
        state->has_own_kernels = state->has_own_kernels || before->has_own_kernels;
        state->pinned.insert(state->pinned.end(), before->pinned.begin(), before->pinned.end());
        state->pins.insert(state->pins.end(), before->pins.begin(), before->pins.end());
      }
      pins.keep();
      std::shared_ptr<const ExecState> exchanged = state;
      exchange_state(exec, &exchanged);
      return result;
    }
    pins.keep();
    std::shared_ptr<const ExecState> exchanged;
    if (!state->empty()) exchanged = state;
    if (exchange_state(exec, &exchanged) && exchanged != nullptr) unpin_all(exchanged->pins);
    return result;
  } catch (...) {
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
}

CUresult graph_exec_detail::add_to_exec(CUgraphExec exec, bool loses_guard, bool guarded,
                                        const GraphReach& addition, SubmitRef submit) {
  const std::shared_ptr<const ExecState> before = state_of(exec);
  auto state =
      before != nullptr ? std::make_shared<ExecState>(*before) : std::make_shared<ExecState>();
  // Parameters that change at every step would pile up pins: widen them then.
  constexpr std::size_t kManyPins = 16;
  const bool many = state->pins.size() >= kManyPins;
  PinsUntilKept pins(state.get());
  for (const std::uint64_t word : addition.words) remember_argument(word);
  // The node may have named no pool when it was captured, and stand in a branch beside guards.
  state->has_own_kernels = state->has_own_kernels || addition.has_own_kernels;
  if (state->has_own_kernels && !addition.touched.empty()) state->in_no_order = true;
  CUresult result = CUDA_SUCCESS;
  if (loses_guard) {
    state->pin_all = true;  // also after an update: a disabled node stays disabled
    result = add_pins(state.get(), state->touched);
    if (result != CUDA_SUCCESS) return result;
  }
  if (state->pin_all || addition.device_updatable || (many && !addition.written.empty())) {
    result = add_pins(state.get(), addition.touched);
  } else if (!guarded) {
    note(addition);
    result = add_pins(state.get(), addition.written);
  }
  if (result != CUDA_SUCCESS) return result;
  result = submit_pinned(*state, submit);
  if (result != CUDA_SUCCESS) return result;
  add_touched(&state->touched, addition.touched);
  pins.keep();
  std::shared_ptr<const ExecState> exchanged = state;
  exchange_state(exec, &exchanged);  // the pins of the state before live on in the new one
  return result;
}

CUresult launch_exec(StreamRef stream, CUgraphExec exec, SubmitRef submit) noexcept {
  if (!any_pool_ever()) return submit();
  const std::shared_ptr<const ExecState> state = state_of(exec);
  const bool waits = waits_in(exec, stream);
  if (state == nullptr || state->touched.empty()) {
    if (waits) before_wait(stream);
    return submit();
  }
  // In a capture the nodes are copied; this executable's pins don't cover the copy.
  if (!state->pins.empty() && any_capture()) capture_gets_unguarded_work(stream);
  try {
    return run_work(stream, state->touched, nullptr, [&] {
      if (state->in_no_order) comes_in_no_order(state->touched);
      return submit();
    });
  } catch (...) {
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
}

void exec_destroyed(CUgraphExec exec) noexcept {
  note_waits(exec, true);
  std::shared_ptr<const ExecState> exchanged;
  if (exchange_state(exec, &exchanged) && exchanged != nullptr) unpin_all(exchanged->pins);
}

void abandon_executables_after_fork() noexcept { all_executables().start_anew(); }

}  // namespace kvshim::preload
