// Where snapshots come from: the shared segments of this user, and NVML for the
// GPUs' totals when it answers in time.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "segment/reader.h"
#include "tools/kvshim/gpu_probe.h"
#include "tools/kvshim/snapshot.h"
#include "tools/kvshim/start_time.h"

namespace kvshim::cli {

/// The folder of the segments as this user's configuration has it; empty: the default.
std::string segment_folder();

/// The figures of living processes. Pure. Without a clock nobody's start is known.
Snapshot snapshot_of(const std::vector<segment::GpuSnapshot>& segments, double seconds,
                     const BootClock& clock = {});

/// Sets the index of the snapshot's GPUs that are named (gpu_indices()). Pure.
void add_indices(const std::map<std::string, int>& indices, Snapshot* snapshot);

/// Sets totals, use and index of the snapshot's GPUs from NVML, whose word counts, and adds
/// GPUs that no process of ours is on. Pure.
void add_gpu_memory(const std::vector<GpuMemory>& gpus, Snapshot* snapshot);

/// What there is now. `probe` may be null; waits for it at most `longest_ms`.
Snapshot take_snapshot(const std::string& folder, GpuProbe* probe, int longest_ms);

}  // namespace kvshim::cli
