// Which kernels named pools, and what was decided for each: for the status file.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "preload/function_info.h"
#include "preload/root_scan.h"

namespace kvshim::preload {

namespace kernel_decisions_detail {

// Few kernels name pools (tens in an engine). Infos are never freed, so pointers
// to them are enough; a full table forgets newcomers.
struct Slot {
  std::atomic<const FunctionInfo*> info{nullptr};
  std::atomic<std::uint8_t> kinds{0};  // bit k: LaunchReach::Kind of value k
};
inline constexpr std::size_t kSlots = 2048;
inline constexpr std::size_t kProbes = 32;
inline std::array<Slot, kSlots> slots;

}  // namespace kernel_decisions_detail

/// Remembers that a launch of this kernel (also into a capture) reached a pool in
/// this way. Any thread, no lock, some nanoseconds once the kernel was seen.
inline void note_decision(const FunctionInfo& info, LaunchReach::Kind kind) noexcept {
  namespace detail = kernel_decisions_detail;
  const auto bit = static_cast<std::uint8_t>(1u << static_cast<unsigned>(kind));
  for (std::size_t i = 0; i < detail::kProbes; ++i) {
    detail::Slot& slot = detail::slots[(hash_handle(&info) + i) % detail::kSlots];
    const FunctionInfo* held = slot.info.load(std::memory_order_acquire);
    if (held == nullptr && slot.info.compare_exchange_strong(held, &info)) held = &info;
    if (held != &info) continue;
    if ((slot.kinds.load(std::memory_order_relaxed) & bit) == 0) slot.kinds.fetch_or(bit);
    return;
  }
}

struct KernelDecision {
  std::string name;    // mangled
  std::string role;    // by the catalog: "reader", "writer", "zero fill", "unknown"
  std::string reason;  // which profile and entry decided, or why nothing is known
  std::vector<std::string> treated_as;  // "read", "guarded write", "fill", "may write to pool ends"
};

/// All of them by name, each name once. Any thread. Throws std::bad_alloc.
std::vector<KernelDecision> kernel_decisions();

}  // namespace kvshim::preload
