#include "tests/preload/launch/fake_gate.h"

#include <mutex>

#include "tests/preload/launch/fake_driver.h"

namespace kvshim::preload {

namespace gate_detail {
std::atomic<std::uint64_t> arena_base{0};
std::atomic<std::uint64_t> arena_bytes{0};
}  // namespace gate_detail

namespace testing {

static FakeGate g_gate;
static std::mutex g_mutex;  // for what several threads call

FakeGate& gate() { return g_gate; }

void reset_gate(bool with_arena) {
  const PinId last_pin = g_gate.last_pin;  // ids are not given out twice
  g_gate = FakeGate{};
  g_gate.last_pin = last_pin;
  gate_detail::arena_base = with_arena ? kArenaBase : 0;
  gate_detail::arena_bytes = with_arena ? kArenaBytes : 0;
}

const PoolView& FakeGate::add_pool(std::uint64_t base, std::size_t bytes) {
  PoolView pool;
  pool.base = base;
  pool.bytes = bytes;
  pool.buffer_id = pools.size() + 1;
  return pools.emplace_back(pool);
}

}  // namespace testing

using testing::g_gate;

std::optional<PoolView> find_pool(CUdeviceptr address) noexcept {
  for (const PoolView& pool : g_gate.pools) {
    if (address - pool.base < pool.bytes) return pool;
  }
  return std::nullopt;
}

std::vector<PoolView> pools_in(CUdeviceptr address, std::size_t bytes) {
  std::vector<PoolView> found;
  for (const PoolView& pool : g_gate.pools) {
    if (address < pool.base + pool.bytes && pool.base < address + bytes) found.push_back(pool);
  }
  return found;
}

CUresult run_work(StreamRef stream, std::span<const Access> accesses,
                  const vmm::LinearWrite* linear, SubmitRef submit, const vmm::TableRead* read) {
  {
    const std::lock_guard lock(testing::g_mutex);
    testing::FakeGate::Work work{stream, {accesses.begin(), accesses.end()}, {}, {}};
    if (linear != nullptr) work.linear = *linear;
    if (read != nullptr) work.read = *read;
    g_gate.work.push_back(work);
  }
  if (g_gate.guard_result != CUDA_SUCCESS) return g_gate.guard_result;
  return submit();
}

bool wants_read(StreamRef, const PoolView&) noexcept { return g_gate.wants_read; }
void read_unseen(CUdeviceptr address, bool in_graph) noexcept {
  (in_graph ? g_gate.reads_unseen_in_graphs : g_gate.reads_unseen).push_back(address);
}
bool is_capturing(StreamRef stream) noexcept {
  return testing::driver().captures.contains(stream.handle);
}
void read_nodes_change() noexcept { ++g_gate.read_node_changes; }

CUresult run_list(std::span<const ListedWork> list, SubmitRef submit) {
  g_gate.lists.emplace_back(list.begin(), list.end());
  if (g_gate.guard_result != CUDA_SUCCESS) return g_gate.guard_result;
  return submit();
}

CUresult run_fill(StreamRef stream, CUdeviceptr address, std::size_t bytes, bool zero,
                  SubmitRef submit) {
  g_gate.fills.push_back({stream, address, bytes, zero});
  return zero ? CUDA_SUCCESS : submit();
}

CUresult retry_over_holes(SubmitRef call, WhileAbsent) { return call(); }

CUresult retry_while_absent(std::span<const Access> ranges, SubmitRef call) {
  for (const Access& range : ranges) g_gate.waited_for.push_back(range);
  return call();
}

PinId pin(std::span<const Access> ranges, CUresult* result) {
  *result = g_gate.pin_result;
  if (*result != CUDA_SUCCESS) return kNoPin;
  g_gate.pins[++g_gate.last_pin] = {ranges.begin(), ranges.end()};
  return g_gate.last_pin;
}

void unpin(PinId id) noexcept { g_gate.pins.erase(id); }

void remember_argument(std::uint64_t address) noexcept {
  const std::lock_guard lock(testing::g_mutex);
  g_gate.remembered.push_back(address);
}

void note_unknown_kernel(const char* name, const std::string& words, std::size_t reach_bytes) {
  const std::lock_guard lock(testing::g_mutex);
  g_gate.unknown.push_back({name, words, reach_bytes});
}

void before_stream_destroy(CUstream) noexcept { g_gate.calls.push_back("before stream destroy"); }
void comes_in_no_order(std::span<const Access> accesses) {
  g_gate.in_no_order.assign(accesses.begin(), accesses.end());
}

void before_capture(StreamRef) noexcept { g_gate.calls.push_back("before capture"); }
void after_capture(StreamRef) noexcept { g_gate.calls.push_back("after capture"); }
void before_wait(std::optional<StreamRef> stream) noexcept {
  g_gate.waits.push_back(stream ? stream->handle : nullptr);
}
CUresult wait_for_context(CUcontext, SubmitRef wait) noexcept { return wait(); }
void before_context_destroy(CUcontext context) noexcept {
  g_gate.destroyed_contexts.push_back(context);
  g_gate.calls.push_back("before context destroy");
}
void after_context_destroy(CUcontext context) noexcept { g_gate.ended_contexts.push_back(context); }

}  // namespace kvshim::preload
