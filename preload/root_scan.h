// The root scan of one launch: which words of its parameters lie in live pools,
// and what the kernel may do to those pools.
//
// The first question (does any word lie in the arena?) is asked of every launch:
// inline, no lock, no counter. Everything else runs only for launches that named
// the arena.
#pragma once

#include <cuda.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "heuristics/kernel_catalog.h"
#include "preload/function_info.h"
#include "preload/gate.h"
#include "vmm/guard_abi.h"

namespace kvshim::preload {

/// The arguments of one launch in either form, and its shape. `params` and
/// `extra` as cuLaunchKernel takes them; at most one is not null.
struct LaunchArguments {
  void* const* params = nullptr;
  void* const* extra = nullptr;
  std::array<std::uint32_t, 3> grid{};
  std::array<std::uint32_t, 3> block{};
};

/// The buffer of the `extra` form.
struct ParamBuffer {
  const unsigned char* data = nullptr;
  std::size_t bytes = 0;
};
/// Nothing when the list names no buffer (the driver will refuse it).
std::optional<ParamBuffer> param_buffer(void* const* extra) noexcept;

namespace root_scan_detail {

inline std::uint64_t load_word(const unsigned char* at) noexcept {
  std::uint64_t word;
  std::memcpy(&word, at, sizeof word);
  return word;
}

/// Whether one of `count` words lies in the arena. No early exit inside a group
/// of eight, so that the loop has few branches; most launches have no hit.
inline bool run_meets_arena(const unsigned char* at, std::size_t count, std::uint64_t base,
                            std::uint64_t bytes) noexcept {
  bool hit = false;
  for (std::size_t i = 0; i < count; ++i) hit |= load_word(at + i * 8) - base < bytes;
  return hit;
}

bool buffer_meets_arena(const FunctionInfo& info, void* const* extra) noexcept;

}  // namespace root_scan_detail

/// Whether a pool was ever made in this process. One relaxed load.
inline bool any_pool_ever() noexcept {
  return gate_detail::arena_bytes.load(std::memory_order_relaxed) != 0;
}

/// Whether a word that may be a pointer lies in the arena. The layout must be known.
inline bool names_arena(const FunctionInfo& info, void* const* params,
                        void* const* extra) noexcept {
  const std::uint64_t bytes = gate_detail::arena_bytes.load(std::memory_order_acquire);
  const std::uint64_t base = gate_detail::arena_base.load(std::memory_order_relaxed);
  if (params == nullptr) {
    return extra != nullptr && root_scan_detail::buffer_meets_arena(info, extra);
  }
  // No branch for each pointer: nearly always none is a hit.
  bool hit = false;
  const std::uint8_t* const end = info.plain.data() + info.plain_count;
  for (const std::uint8_t* param = info.plain.data(); param != end; ++param) {
    hit |= root_scan_detail::load_word(static_cast<const unsigned char*>(params[*param])) - base <
           bytes;
  }
  for (const WordRun& run : info.other_runs) {
    const auto* param = static_cast<const unsigned char*>(params[run.param]);
    hit |= root_scan_detail::run_meets_arena(param + run.offset, run.count, base, bytes);
  }
  return hit;
}

/// A parameter's word that lies in a live pool.
struct PoolWord {
  std::uint64_t value = 0;
  heuristics::WordPlace place;
  bool read_only = false;  // the kernel doesn't write through it
  PoolView pool;
};

/// What a launch may do to pools.
struct LaunchReach {
  enum class Kind : std::uint8_t {
    kNothing,      // names no live pool
    kReads,        // `accesses`: the pools as read, and results in their last granules
    kLinearWrite,  // the same, and `linear` says where it writes
    kFill,         // `fill` says all
    kUnknown,      // `accesses` says what it may write: from each word to its pool's end
  };
  Kind kind = Kind::kNothing;
  std::vector<PoolWord> words;
  std::vector<Access> accesses;
  vmm::LinearWrite linear{};
  heuristics::FillCall fill;
};

/// Evaluates a launch against the live pools. Any thread; takes find_pool's
/// shared lock for each word in the arena. Throws std::bad_alloc.
/// REQUIRES info.layout_known.
LaunchReach reach_of(const FunctionInfo& info, const LaunchArguments& arguments);

/// The block table of a launch of a reader that has one, from the live pools. Nothing when
/// the profile's form doesn't hold, or no part of it lies in a pool. Throws std::bad_alloc.
/// REQUIRES info.layout_known.
std::optional<vmm::TableRead> table_of(const FunctionInfo& info, const LaunchArguments& arguments);

/// The pool whose cache the launch looks at: of the first word that is not in its pool's
/// last granule, which may hold other tensors. Null when there is none.
const PoolView* cache_of(const LaunchReach& reach) noexcept;

/// What a launch of which nothing is known but the driver may do: write every
/// live pool. Throws std::bad_alloc.
LaunchReach reach_of_everything();

/// "p0+104/2688 p1+0/8": parameter, byte, size of the parameter.
std::string describe_words(const FunctionInfo& info, std::span<const PoolWord> words);

/// Bytes that the writing accesses name.
std::size_t written_bytes(std::span<const Access> accesses) noexcept;

}  // namespace kvshim::preload
