// What the shared segment says, as plain structs: what an engine's process
// publishes about itself, and what others tell it. No pointers, no padding;
// texts end with a zero byte (readers enforce it). Bytes are bytes, times are
// nanoseconds of the host's CLOCK_MONOTONIC unless the name says otherwise.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "segment/cells.h"

namespace kvshim::segment {

/// Bytes of the character that the (not empty) text begins with; 0: it is a control
/// character, or no UTF-8.
constexpr std::size_t harmless_character(std::string_view text) noexcept {
  const auto byte = [text](std::size_t i) {
    return static_cast<std::uint32_t>(static_cast<unsigned char>(text[i]));
  };
  const std::uint32_t first = byte(0);
  if (first < 0x80) return first < 0x20 || first == 0x7f ? 0 : 1;
  const std::size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || text.size() < length) return 0;
  std::uint32_t code = first & (0xffu >> (length + 1));
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0u) != 0x80) return 0;
    code = code << 6 | (byte(i) & 0x3fu);
  }
  const bool overlong = code < (length == 4 ? 0x10000u : length == 3 ? 0x800u : 0x80u);
  const bool surrogate = code >= 0xd800 && code <= 0xdfff;
  return code < 0xa0 || code > 0x10ffff || overlong || surrogate ? 0 : length;
}

template <std::size_t kBytes>
struct Text {
  std::array<char, kBytes> bytes{};
  Text() = default;
  Text(std::string_view text) noexcept { *this = text; }  // NOLINT: as a string would
  /// Cuts what doesn't fit; a zero byte always remains at the end.
  Text& operator=(std::string_view text) noexcept {
    bytes = {};
    for (std::size_t i = 0; i < text.size() && i + 1 < kBytes; ++i) bytes[i] = text[i];
    return *this;
  }
  /// Up to the first zero byte, at most kBytes - 1. The text may be another process's:
  /// each byte of what could steer a terminal (control characters, the C1 ones too) or is
  /// no UTF-8 comes out as '?'.
  std::string str() const {
    const std::string_view all(bytes.data(), kBytes - 1);
    const std::string_view text = all.substr(0, all.find('\0'));
    std::string out;
    while (out.size() < text.size()) {
      const std::size_t length = harmless_character(text.substr(out.size()));
      if (length == 0) {
        out += '?';
      } else {
        out += text.substr(out.size(), length);
      }
    }
    return out;
  }
};

/// Who a record belongs to. For display, and for tools so that they signal
/// nobody wrongly; never for liveness (that is the kernel's lock).
struct Identity {
  std::int32_t pid = 0;             // in the pid namespace `pid_namespace`
  std::uint32_t uid = 0;            // effective
  std::uint64_t start_time = 0;     // /proc/<pid>/stat field 22, clock ticks since boot
  std::uint64_t pid_namespace = 0;  // inode of /proc/self/ns/pid
  std::uint64_t boot = 0;           // hash of the kernel's boot id
  std::uint64_t attached_ns = 0;
  std::uint64_t gpu_total = 0;  // bytes of the GPU; 0: unknown
  Text<64> name;                // as the kernel has it (comm, 15 bytes)
  Text<768> command_line;       // joined by spaces, cut
  Text<32> version;             // of kvshim
  Text<96> gpu_name;
  Text<256> status_file;  // path of the status JSON; empty: none
};

/// Counted since the record's process made its first pool on this GPU.
struct Figures {
  std::uint64_t updated_ns = 0;  // when these figures were taken
  std::uint64_t elastic = 0;     // 1: pools are released when idle; 0: paused or none
  std::uint64_t pools = 0, pool_bytes = 0;
  std::uint64_t resident = 0, parked = 0, absent = 0;  // sum: pool_bytes
  std::uint64_t device_cached = 0;  // GPU memory held beyond pools: zero pages, handles
  std::uint64_t host_cached = 0;    // host memory held beyond what is parked
  std::uint64_t host_budget = 0;
  std::uint64_t other_bytes = 0;  // GPU memory that is no pool (weights, ...); 0: unknown
  std::uint64_t gpu_free = 0;     // what the driver says is free; 0: unknown
  std::uint64_t faults = 0, fault_p50_us = 0, fault_p99_us = 0, fault_max_us = 0;
  std::uint64_t fault_total_us = 0;
  std::uint64_t faults_in_host_memory = 0, failed_faults = 0;
  std::uint64_t releases = 0;
  std::uint64_t released_bytes = 0;  // zero, parked and dropped together
  std::uint64_t released_zero_bytes = 0, parked_bytes = 0, dropped_bytes = 0;
  std::uint64_t promotions = 0, restored_bytes = 0;
  std::uint64_t dropped_fills = 0, dropped_fill_bytes = 0;
  std::uint64_t unknown_kernels = 0;
  std::uint64_t idle_ms = 0;      // since work reached a pool of this GPU
  std::uint64_t given_bytes = 0;  // freed because a neighbour needed memory
  std::uint64_t got_bytes = 0;    // asked for, and there after a wait
  std::uint64_t needs_answered = 0, needs_unanswered = 0;  // waits that ended with room, without
};

/// What a process goes by at the moment.
struct Settings {
  std::uint64_t limit = 0;    // bytes of GPU memory, 0: none
  std::uint64_t reserve = 0;  // bytes that neighbours never take
  std::int64_t priority = 0;
  std::uint64_t paused = 0;  // 1: releases nothing
  std::uint64_t idle_timeout_ms = 0;
  std::uint64_t host_budget = 0;
  std::uint64_t disposable = 0;  // 1: contents = "disposable"
  /// Generation of the control that these settings follow: a tool that wants to
  /// know whether its word was heard waits for it.
  std::uint64_t control_generation = 0;
};

enum class NeedKind : std::uint64_t {
  kNone = 0,
  kFault = 1,    // a write waits on the GPU
  kRestore = 2,  // parked contents want to come back: can wait
  kPlain = 3,    // an allocation of the engine itself; host memory can't help
};

/// What a process lacks. `bytes` 0: nothing.
struct Need {
  std::uint64_t serial = 0;  // grows with every need of a record
  std::uint64_t bytes = 0;
  NeedKind kind = NeedKind::kNone;
  std::uint64_t posted_ns = 0;
};

/// What tools (and the process itself, once, from its configuration) say.
struct Control {
  std::uint64_t limit = 0;             // bytes of GPU memory, pools and the rest; 0: none
  std::uint64_t reserve = 0;           // bytes; 0: none
  std::int64_t priority = 0;           // higher: gives later, gets earlier; -100 to 100
  std::uint64_t paused = 0;            // 1: elasticity off, what is absent comes back as written
  std::uint64_t release_requests = 0;  // counter: a change means "release what is idle now"
  std::uint64_t set_ns = 0;
  std::int64_t set_by = 0;  // pid of the last writer, in its own namespace; 0: a configuration
  /// In a process's record: the group it belongs to ("" : none). In a group's
  /// cell: the group's name ("*": all processes of this user on this GPU).
  Text<48> group;
};
inline constexpr std::int64_t kMostPriority = 100;

static_assert(Shareable<Identity> && Shareable<Figures> && Shareable<Settings> && Shareable<Need> &&
              Shareable<Control>);

/// The host's CLOCK_MONOTONIC.
std::uint64_t monotonic_ns() noexcept;
/// /proc/<pid>/stat field 22, clock ticks since boot; 0 when there is no such process.
std::uint64_t start_time_of(std::int64_t pid);
/// Identity of the calling process, `gpu_*` and `status_file` left empty. Reads
/// /proc; what can't be read stays 0 or empty.
Identity own_identity();
/// Whether the process `identity` names is running and visible from here under
/// that pid: same boot, same pid namespace, same start time. Only then may a
/// tool signal `identity.pid`.
bool is_running_here(const Identity& identity);

}  // namespace kvshim::segment
