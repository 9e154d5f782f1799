#include "preload/root_scan.h"

#include <algorithm>
#include <array>
#include <limits>

#include "vmm/units.h"

namespace kvshim::preload {

using heuristics::FillCall;
using heuristics::KernelRole;
using heuristics::LaunchValues;
using heuristics::TableCall;
using heuristics::WriterCall;
using root_scan_detail::load_word;

std::optional<ParamBuffer> param_buffer(void* const* extra) noexcept {
  if (extra == nullptr) return std::nullopt;
  ParamBuffer buffer;
  bool sized = false;
  // Pairs of name and value up to the end mark; a list without one is the
  // caller's error, so stop at a length no real list has.
  for (std::size_t i = 0; i < 16; i += 2) {
    const auto name = reinterpret_cast<std::uintptr_t>(extra[i]);
    if (name == CU_LAUNCH_PARAM_END_AS_INT) break;
    if (name == CU_LAUNCH_PARAM_BUFFER_POINTER_AS_INT) {
      buffer.data = static_cast<const unsigned char*>(extra[i + 1]);
    } else if (name == CU_LAUNCH_PARAM_BUFFER_SIZE_AS_INT) {
      if (extra[i + 1] == nullptr) return std::nullopt;
      buffer.bytes = *static_cast<const std::size_t*>(extra[i + 1]);
      sized = true;
    } else {
      return std::nullopt;
    }
  }
  if (buffer.data == nullptr || !sized) return std::nullopt;
  return buffer;
}

bool root_scan_detail::buffer_meets_arena(const FunctionInfo& info, void* const* extra) noexcept {
  const std::optional<ParamBuffer> buffer = param_buffer(extra);
  if (!buffer) return false;
  const std::uint64_t bytes = gate_detail::arena_bytes.load(std::memory_order_acquire);
  const std::uint64_t base = gate_detail::arena_base.load(std::memory_order_relaxed);
  for (const WordRun& run : info.runs) {
    if (run.buffer_offset >= buffer->bytes) continue;  // shorter than the parameters
    const std::size_t count =
        std::min<std::size_t>(run.count, (buffer->bytes - run.buffer_offset) / 8);
    if (run_meets_arena(buffer->data + run.buffer_offset, count, base, bytes)) return true;
  }
  return false;
}

namespace {

/// The arguments as pointers to each parameter's bytes, whichever form they came in.
class ParamPointers {
 public:
  ParamPointers(const FunctionInfo& info, const LaunchArguments& arguments) {
    pointers_.reserve(info.params.size());
    if (arguments.params != nullptr) {
      pointers_.assign(arguments.params, arguments.params + info.params.size());
      return;
    }
    const std::optional<ParamBuffer> buffer = param_buffer(arguments.extra);
    if (!buffer) return;
    std::size_t whole = 0;
    for (const heuristics::ParamLayout& param : info.params) {
      whole = std::max(whole, param.offset + param.size);
    }
    const unsigned char* data = buffer->data;
    if (buffer->bytes < whole) {  // what the caller left out is not ours to read
      padded_.assign(data, data + buffer->bytes);
      padded_.resize(whole);
      data = padded_.data();
    }
    for (const heuristics::ParamLayout& param : info.params) {
      pointers_.push_back(data + param.offset);
    }
  }
  ParamPointers(const ParamPointers&) = delete;
  ParamPointers& operator=(const ParamPointers&) = delete;
  std::span<const void* const> all() const { return pointers_; }

 private:
  std::vector<const void*> pointers_;
  std::vector<unsigned char> padded_;
};

std::vector<PoolWord> pool_words(const FunctionInfo& info, const LaunchValues& values) {
  std::vector<PoolWord> found;
  for (const WordRun& run : info.runs) {
    const auto* at = static_cast<const unsigned char*>(values.params[run.param]) + run.offset;
    for (std::size_t i = 0; i < run.count; ++i) {
      const std::uint64_t value = load_word(at + i * 8);
      if (!in_arena(value)) continue;
      const std::size_t index = run.first_word + i;
      if (!info.knowledge->word_is_live(info.words[index], values)) continue;
      const std::optional<PoolView> pool = find_pool(value);
      if (!pool) continue;
      found.push_back({value, info.words[index], info.word_is_read_only[index], *pool});
    }
  }
  return found;
}

void add_pool(std::vector<Access>& accesses, const PoolView& pool, bool stays_in_written) {
  for (const Access& access : accesses) {
    if (access.address == pool.base && access.bytes == pool.bytes && !access.writes) return;
  }
  accesses.push_back({pool.base, pool.bytes, false, stays_in_written});
}

std::vector<Access> whole_pools(std::span<const PoolWord> words, bool stays_in_written) {
  std::vector<Access> accesses;
  for (const PoolWord& word : words) add_pool(accesses, word.pool, stays_in_written);
  return accesses;
}

/// From each word to its pool's end. A word in the last granule thereby reaches
/// that granule only: the tail of a segment, which the allocator may have handed
/// to another tensor, costs no more than it can hold.
std::vector<Access> from_words_on(std::span<const PoolWord> words) {
  std::vector<Access> accesses;
  for (const PoolWord& word : words) {
    const Access access{word.value, word.pool.base + word.pool.bytes - word.value, !word.read_only};
    const bool known = std::any_of(accesses.begin(), accesses.end(), [&](const Access& other) {
      return other.address == access.address && other.writes == access.writes;
    });
    if (!known) accesses.push_back(access);
  }
  return accesses;
}

/// The last granule of a pool need not be the engine's cache alone: an allocator
/// hands the tail of a segment to other tensors, so also to the results of a kernel
/// that only reads the cache, or writes it elsewhere. Whatever such a kernel may
/// write through a pointer into that granule is made present.
void add_results_in_tails(std::vector<Access>& accesses, std::span<const PoolWord> words,
                          const vmm::LinearWrite* linear) {
  for (const PoolWord& word : words) {
    const std::size_t to_end = word.pool.base + word.pool.bytes - word.value;
    if (word.read_only || to_end > vmm::kGranuleBytes) continue;
    const bool guarded =
        linear != nullptr &&
        std::any_of(linear->destination, linear->destination + linear->destinations,
                    [&](const vmm::LinearDestination& d) { return d.base == word.value; });
    if (!guarded) accesses.push_back({word.value, to_end, true});
  }
}

/// Fills in `linear`; false when the call can't be expressed, so that the kernel
/// must be treated as unknown.
bool to_linear(const WriterCall& call, vmm::LinearWrite* linear) {
  if (call.count > std::numeric_limits<std::uint32_t>::max()) return false;
  if (call.block == 0 || call.slots == 0) return false;
  if (call.slot_bytes != 4 && call.slot_bytes != 8) return false;
  linear->slots = call.slots;
  linear->slot_bytes = call.slot_bytes;
  linear->count = static_cast<std::uint32_t>(call.count);
  linear->skip_below = call.skip_below;
  linear->block = call.block;
  linear->destinations = 0;
  linear->reserved = 0;
  for (const WriterCall::Destination& destination : call.destinations) {
    if (destination.length == 0) continue;
    const std::optional<PoolView> pool = find_pool(destination.base);
    if (!pool) continue;  // this tensor is not elastic: no concern of the guard
    if (linear->destinations == vmm::kMaxDestinations) return false;
    linear->destination[linear->destinations++] = {
        destination.base, destination.block_stride, destination.slot_stride, destination.length,
        pool->base,       pool->base + pool->bytes};
  }
  return true;
}

/// False when the call is no table that a mark can follow.
bool to_read(const TableCall& call, vmm::TableRead* read) {
  constexpr std::uint64_t kIdBytes = 4;
  if (call.ids % kIdBytes != 0 || call.row_stride % kIdBytes != 0 || call.lengths % kIdBytes != 0 ||
      call.block > std::numeric_limits<std::uint32_t>::max()) {
    return false;
  }
  read->ids = call.ids;
  read->row_stride = call.row_stride;
  read->lengths = call.lengths;
  read->rows = static_cast<std::uint32_t>(call.rows);
  read->entries = static_cast<std::uint32_t>(call.entries);
  read->block = static_cast<std::uint32_t>(call.block);
  read->parts = 0;
  for (const TableCall::Part& part : call.parts) {
    const std::optional<PoolView> pool = find_pool(part.base);
    if (!pool || part.length == 0) continue;  // no concern of the marks
    if (read->parts == vmm::kMaxTableParts) return false;
    read->part[read->parts++] = {part.base, part.block_stride, part.length, pool->base,
                                 pool->base + pool->bytes};
  }
  return read->parts != 0;
}

}  // namespace

std::optional<vmm::TableRead> table_of(const FunctionInfo& info, const LaunchArguments& arguments) {
  const ParamPointers pointers(info, arguments);
  if (pointers.all().size() != info.params.size()) return std::nullopt;
  const std::optional<TableCall> call =
      info.knowledge->table_call({pointers.all(), arguments.grid, arguments.block});
  vmm::TableRead read{};
  if (!call || !to_read(*call, &read)) return std::nullopt;
  return read;
}

const PoolView* cache_of(const LaunchReach& reach) noexcept {
  for (const PoolWord& word : reach.words) {
    if (word.pool.base + word.pool.bytes - word.value > vmm::kGranuleBytes) return &word.pool;
  }
  return nullptr;
}

LaunchReach reach_of(const FunctionInfo& info, const LaunchArguments& arguments) {
  LaunchReach reach;
  const ParamPointers pointers(info, arguments);
  if (pointers.all().size() != info.params.size()) return reach;  // no arguments at all
  const LaunchValues values{pointers.all(), arguments.grid, arguments.block};
  reach.words = pool_words(info, values);
  if (reach.words.empty()) return reach;

  const heuristics::KernelKnowledge& knowledge = *info.knowledge;
  const bool all_read_only = std::all_of(reach.words.begin(), reach.words.end(),
                                         [](const PoolWord& word) { return word.read_only; });
  if (knowledge.role == KernelRole::kReader || all_read_only) {
    reach.kind = LaunchReach::Kind::kReads;
    reach.accesses = whole_pools(reach.words, knowledge.stays_in_written);
    add_results_in_tails(reach.accesses, reach.words, nullptr);
    return reach;
  }
  if (knowledge.role == KernelRole::kWriter) {
    const std::optional<WriterCall> call = knowledge.writer_call(values);
    if (call && call->count == 0) {
      reach.kind = LaunchReach::Kind::kReads;
      reach.accesses = whole_pools(reach.words, true);
      return reach;
    }
    if (call && to_linear(*call, &reach.linear)) {
      reach.kind = reach.linear.destinations != 0 ? LaunchReach::Kind::kLinearWrite
                                                  : LaunchReach::Kind::kReads;
      reach.accesses = whole_pools(reach.words, true);
      // A destination may lie in a pool that no scanned word named.
      for (std::uint32_t i = 0; i < reach.linear.destinations; ++i) {
        const vmm::LinearDestination& destination = reach.linear.destination[i];
        PoolView pool;
        pool.base = destination.pool_begin;
        pool.bytes = destination.pool_end - destination.pool_begin;
        add_pool(reach.accesses, pool, true);
      }
      add_results_in_tails(reach.accesses, reach.words, &reach.linear);
      return reach;
    }
  }
  if (knowledge.role == KernelRole::kZeroFill) {
    const std::optional<FillCall> fill = knowledge.fill_call(values);
    const bool only_word =
        fill && std::all_of(reach.words.begin(), reach.words.end(),
                            [&](const PoolWord& word) { return word.value == fill->address; });
    // The range must lie in the pool it starts in.
    if (only_word &&
        fill->bytes <= reach.words[0].pool.base + reach.words[0].pool.bytes - fill->address) {
      reach.kind = LaunchReach::Kind::kFill;
      reach.fill = *fill;
      return reach;
    }
  }
  reach.kind = LaunchReach::Kind::kUnknown;
  reach.accesses = from_words_on(reach.words);
  return reach;
}

LaunchReach reach_of_everything() {
  LaunchReach reach;
  for (const PoolView& pool : pools_in(gate_detail::arena_base, gate_detail::arena_bytes)) {
    reach.accesses.push_back({pool.base, pool.bytes, true});
  }
  if (!reach.accesses.empty()) reach.kind = LaunchReach::Kind::kUnknown;
  return reach;
}

std::string describe_words(const FunctionInfo& info, std::span<const PoolWord> words) {
  std::string text;
  for (const PoolWord& word : words) {
    if (!text.empty()) text += ' ';
    text += 'p' + std::to_string(word.place.param) + '+' + std::to_string(word.place.offset) + '/' +
            std::to_string(info.params[word.place.param].size);
  }
  return text;
}

std::size_t written_bytes(std::span<const Access> accesses) noexcept {
  std::size_t bytes = 0;
  for (const Access& access : accesses) {
    if (access.writes) bytes += access.bytes;
  }
  return bytes;
}

}  // namespace kvshim::preload
