// Snapshots for tests of screens and tables.
#pragma once

#include <string>

#include "tools/kvshim/snapshot.h"

namespace kvshim::cli::testing {

inline constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
inline constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;

/// An engine that is busy: 4.1 GiB of weights, 6 GiB of KV, 54 GiB absent.
inline ProcessFigures busy_engine() {
  ProcessFigures process;
  process.pid = 1619;
  process.name = "vllm";
  process.pools = 62 * kGiB;
  process.resident = 6 * kGiB;
  process.parked = 2 * kGiB;
  process.absent = 54 * kGiB;
  process.caches = 512 * kMiB;
  process.other = 4200 * kMiB;
  process.host = 2 * kGiB;
  process.limit = 20 * kGiB;
  process.reserve = 1 * kGiB;
  process.priority = 5;
  process.faults = 1200;
  process.fault_p50_us = 101;
  process.fault_p99_us = 3288;
  process.fault_max_us = 6458;
  process.fault_total_us = 250000;
  process.releases = 12;
  process.released_bytes = 40 * kGiB;
  process.restored_bytes = 9 * kGiB;
  return process;
}

/// One that has been idle for 90 s.
inline ProcessFigures idle_engine() {
  ProcessFigures process;
  process.pid = 20417;
  process.name = "text-embedding-server";
  process.pools = 30 * kGiB;
  process.absent = 29 * kGiB;
  process.parked = 1 * kGiB;
  process.other = 2100 * kMiB;
  process.idle_seconds = 90;
  return process;
}

/// An H100 with both and 10 GiB of somebody else.
inline Snapshot two_engines(double seconds = 100) {
  GpuFigures gpu;
  gpu.uuid = "GPU-12345678-1234-1234-1234-123456789abc";
  gpu.name = "NVIDIA H100 80GB HBM3";
  gpu.index = 0;
  gpu.total = 79 * kGiB;
  gpu.processes = {busy_engine(), idle_engine()};
  gpu.used = gpu.used_by_ours() + 10 * kGiB;
  Snapshot snapshot;
  snapshot.seconds = seconds;
  snapshot.gpus = {gpu};
  return snapshot;
}

/// The same two seconds before: 50 faults and 3 GiB of releases a second since.
inline Snapshot two_engines_before() {
  Snapshot snapshot = two_engines(98);
  ProcessFigures& process = snapshot.gpus[0].processes[0];
  process.faults -= 100;
  process.released_bytes -= 6 * kGiB;
  process.restored_bytes -= 1 * kGiB;
  return snapshot;
}

}  // namespace kvshim::cli::testing
