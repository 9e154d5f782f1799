// The rules of giving: how much of what neighbours need is to come from this process.
#pragma once

#include <cstdint>
#include <span>

namespace kvshim::preload {

/// What somebody needs, bytes.
struct NeedSeen {
  std::uint64_t bytes = 0;
  enum class Kind : std::uint8_t { kRestore, kFault, kPlain } kind = Kind::kFault;
  std::int64_t priority = 0;
  std::uint64_t posted_ns = 0;
};

/// A process that could give.
struct GiverSeen {
  std::int64_t priority = 0;
  std::uint64_t idle_ms = 0;
  std::uint64_t spare = 0;  // bytes
  std::uint64_t index = 0;  // decides between equals
};

/// Whoever is shorter idle than this gives nothing (milliseconds).
inline constexpr std::uint64_t kLeastIdleMs = 20;
/// What wants to come back can wait: only the really idle give for it. Else two engines
/// that pause between requests would take each other's memory in turn.
inline constexpr std::uint64_t kLeastIdleForRestoreMs = 500;

/// Whether `a` is served before `b`: an engine's own allocation (host memory can't help
/// it), then the higher priority, then who has waited longer.
bool served_before(const NeedSeen& a, const NeedSeen& b) noexcept;

/// Bytes that must become free so that the needs are covered, beyond what is free. What
/// is for pools must be free above `floor`.
std::uint64_t uncovered(std::span<const NeedSeen> needs, std::uint64_t gpu_free,
                        std::uint64_t floor, std::uint64_t idle_ms) noexcept;

/// How many of `others` give before `us`: the lower priority first, then the longer
/// idle. Who has nothing to give or is at work doesn't count.
std::uint64_t givers_before(const GiverSeen& us, std::span<const GiverSeen> others) noexcept;

}  // namespace kvshim::preload
