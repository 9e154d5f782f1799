// What all processes under kvshim have, at one moment: the model behind list,
// top and metrics. Plain values; nothing here knows where they come from.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace kvshim::cli {

inline constexpr std::uint64_t kNoLimit = UINT64_MAX;

/// One process on one GPU. Sizes in bytes. Texts are printable ASCII.
struct ProcessFigures {
  std::int64_t pid = 0;
  std::string name;
  std::string group;
  std::int64_t started = 0;    // Unix seconds; 0: unknown
  std::uint64_t pools = 0;     // size of all pools as the engine sees it
  std::uint64_t resident = 0;  // of the pools, in GPU memory
  std::uint64_t parked = 0;    // of the pools, in host memory
  std::uint64_t absent = 0;    // of the pools, nowhere
  std::uint64_t caches = 0;    // GPU memory kept ready: zero pages, handles made ahead
  std::uint64_t other = 0;     // GPU memory that is not pool: weights, activations; 0: unknown
  std::uint64_t host = 0;      // host memory held for parked contents
  std::uint64_t limit = kNoLimit;
  std::uint64_t reserve = 0;
  std::int32_t priority = 0;
  bool paused = false;
  bool in_need = false;       // asks the neighbours for memory now
  double idle_seconds = 0;    // since work last reached a pool; 0: busy
  double silent_seconds = 0;  // since the process last said something
  std::uint64_t faults = 0;   // so far
  std::uint64_t fault_p50_us = 0;
  std::uint64_t fault_p99_us = 0;
  std::uint64_t fault_max_us = 0;
  std::uint64_t fault_total_us = 0;  // so far
  std::uint64_t releases = 0;        // so far
  std::uint64_t released_bytes = 0;  // so far
  std::uint64_t restored_bytes = 0;  // so far: brought back from host memory
  std::uint64_t dropped_bytes = 0;   // so far: contents dropped by the user's rule
  std::uint64_t given_bytes = 0;     // so far: to neighbours that needed memory
  std::uint64_t got_bytes = 0;       // so far: from them, after a wait
  std::uint64_t needs_answered = 0;  // so far: waits that ended with memory, and without
  std::uint64_t needs_unanswered = 0;
  std::uint64_t share = 0;  // what the limits of its groups leave it now; 0: no such limit

  /// GPU memory of the process as a limit counts it.
  std::uint64_t on_gpu() const { return resident + caches + other; }
};

/// What holds for a group on one GPU ("*": all processes of this user).
struct GroupFigures {
  std::string name;
  std::uint64_t limit = kNoLimit;
  std::uint64_t reserve = 0;
  std::int32_t priority = 0;
  bool paused = false;
};

struct GpuFigures {
  std::string uuid;  // "GPU-..."
  std::string name;
  int index = -1;           // as NVML counts; -1: unknown
  std::uint64_t total = 0;  // 0: unknown
  std::uint64_t used = 0;   // by everybody, as the driver counts
  std::vector<ProcessFigures> processes;
  std::vector<GroupFigures> groups;

  /// What the processes under kvshim have together.
  std::uint64_t used_by_ours() const;
  /// What programs without kvshim have.
  std::uint64_t used_by_others() const;
};

struct Snapshot {
  double seconds = 0;  // on a clock that never jumps
  std::vector<GpuFigures> gpus;
  std::vector<std::string> problems;  // segments that could not be read, one line each
};

/// Whether segments could not be read and so no process is known (the GPUs may be: NVML
/// names them). Some that are known count: the others' problems are told beside them.
bool is_unreadable(const Snapshot& snapshot);

/// Changes a second between two samples of the same process.
struct Rates {
  bool known = false;
  double faults = 0;
  double released = 0;  // bytes
  double restored = 0;  // bytes
};

/// The same process on the same GPU in another snapshot, or null.
const ProcessFigures* find_process(const Snapshot& snapshot, const std::string& uuid,
                                   std::int64_t pid);

/// Rates since `before`; not known when that is null or no time has passed. Counters
/// that went back (another process with the same id) give 0.
Rates rates_of(const ProcessFigures& now, const ProcessFigures* before, double seconds);

/// The text with everything that is not printable ASCII replaced by '?', so that
/// nothing that a process wrote can steer a terminal; at most `longest` bytes.
std::string printable(const std::string& text, std::size_t longest = 256);

}  // namespace kvshim::cli
