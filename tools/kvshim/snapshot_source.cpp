#include "tools/kvshim/snapshot_source.h"

#include <unistd.h>

#include <algorithm>

#include "tools/kvshim/gpu_index.h"
#include "tools/kvshim/own_configuration.h"
#include "tools/kvshim/process_name.h"

namespace kvshim::cli {
namespace {

double seconds_since(std::uint64_t then_ns, std::uint64_t now_ns) {
  return now_ns > then_ns ? static_cast<double>(now_ns - then_ns) / 1e9 : 0.0;
}

std::int32_t priority_of(std::int64_t said) {
  return static_cast<std::int32_t>(
      std::clamp(said, -segment::kMostPriority, segment::kMostPriority));
}

ProcessFigures figures_of(const segment::RecordSnapshot& record, std::uint64_t now_ns,
                          const BootClock& clock) {
  const segment::Figures& figures = record.figures;
  ProcessFigures process;
  process.pid = record.identity.pid;
  process.name = display_name(record.identity.name.str(), record.identity.command_line.str());
  process.group = printable(record.control.group.str());
  process.started = unix_start(clock, record.identity.boot, record.identity.start_time);
  process.pools = figures.pool_bytes;
  process.resident = figures.resident;
  process.parked = figures.parked;
  process.absent = figures.absent;
  process.caches = figures.device_cached;
  process.other = figures.other_bytes;
  process.host = figures.parked + figures.host_cached;
  process.limit = record.settings.limit == 0 ? kNoLimit : record.settings.limit;
  process.reserve = record.settings.reserve;
  process.priority = priority_of(record.settings.priority);
  process.paused = record.settings.paused != 0;
  process.in_need = record.need.bytes != 0;
  process.idle_seconds = static_cast<double>(figures.idle_ms) / 1000;
  process.silent_seconds = seconds_since(figures.updated_ns, now_ns);
  process.faults = figures.faults;
  process.fault_p50_us = figures.fault_p50_us;
  process.fault_p99_us = figures.fault_p99_us;
  process.fault_max_us = figures.fault_max_us;
  process.fault_total_us = figures.fault_total_us;
  process.releases = figures.releases;
  process.released_bytes = figures.released_bytes;
  process.restored_bytes = figures.restored_bytes;
  process.dropped_bytes = figures.dropped_bytes;
  process.given_bytes = figures.given_bytes;
  process.got_bytes = figures.got_bytes;
  process.needs_answered = figures.needs_answered;
  process.needs_unanswered = figures.needs_unanswered;
  process.share = record.quota;
  return process;
}

}  // namespace

std::string segment_folder() { return own_configuration().options.segment_dir; }

Snapshot snapshot_of(const std::vector<segment::GpuSnapshot>& segments, double seconds,
                     const BootClock& clock) {
  Snapshot snapshot;
  snapshot.seconds = seconds;
  for (const segment::GpuSnapshot& segment : segments) {
    if (!segment.error.empty()) {
      snapshot.problems.push_back(printable(segment.path + ": " + segment.error, 1024));
      continue;
    }
    GpuFigures gpu;
    gpu.uuid = printable(segment.uuid);
    std::uint64_t newest = 0;
    for (const segment::RecordSnapshot& record : segment.records) {
      if (!record.live) continue;
      gpu.processes.push_back(figures_of(record, segment.taken_ns, clock));
      gpu.total = std::max(gpu.total, record.identity.gpu_total);
      if (gpu.name.empty()) gpu.name = printable(record.identity.gpu_name.str());
      // The newest word about the GPU as a whole counts.
      if (record.figures.gpu_free != 0 && record.figures.updated_ns >= newest) {
        newest = record.figures.updated_ns;
        gpu.used = gpu.total - std::min(gpu.total, record.figures.gpu_free);
      }
    }
    for (const segment::Control& control : segment.groups) {
      gpu.groups.push_back({printable(control.group.str()),
                            control.limit == 0 ? kNoLimit : control.limit, control.reserve,
                            priority_of(control.priority), control.paused != 0});
    }
    gpu.used = std::max(gpu.used, gpu.used_by_ours());
    if (!gpu.processes.empty()) snapshot.gpus.push_back(std::move(gpu));
  }
  return snapshot;
}

void add_indices(const std::map<std::string, int>& indices, Snapshot* snapshot) {
  for (GpuFigures& gpu : snapshot->gpus) {
    const auto found = indices.find(gpu.uuid);
    if (found != indices.end()) gpu.index = found->second;
  }
}

void add_gpu_memory(const std::vector<GpuMemory>& gpus, Snapshot* snapshot) {
  for (const GpuMemory& memory : gpus) {
    auto found = std::find_if(snapshot->gpus.begin(), snapshot->gpus.end(),
                              [&](const GpuFigures& gpu) { return gpu.uuid == memory.uuid; });
    if (found == snapshot->gpus.end()) {
      snapshot->gpus.push_back({memory.uuid, memory.name, memory.index, 0, 0, {}, {}});
      found = snapshot->gpus.end() - 1;
    }
    found->index = memory.index;
    found->total = memory.total;
    found->used = std::max(memory.used, found->used_by_ours());
    if (!memory.name.empty()) found->name = memory.name;
  }
  std::stable_sort(snapshot->gpus.begin(), snapshot->gpus.end(),
                   [](const GpuFigures& a, const GpuFigures& b) { return a.index < b.index; });
}

Snapshot take_snapshot(const std::string& folder, GpuProbe* probe, int longest_ms) {
  std::string error;
  const auto segments = segment::read_all(folder, ::geteuid(), &error);
  Snapshot snapshot =
      snapshot_of(segments, static_cast<double>(segment::monotonic_ns()) / 1e9, boot_clock());
  if (!error.empty()) snapshot.problems.push_back(printable(error, 1024));
  add_indices(gpu_indices(), &snapshot);
  if (probe != nullptr) add_gpu_memory(probe->sample(longest_ms), &snapshot);
  return snapshot;
}

}  // namespace kvshim::cli
