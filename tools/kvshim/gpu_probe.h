// What NVML says of the GPUs, when it is there. Uses no CUDA, makes no context.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace kvshim::cli {

struct GpuMemory {
  int index = -1;
  std::string uuid;
  std::string name;
  std::uint64_t total = 0;
  std::uint64_t used = 0;  // bytes, the driver's own reserve left out
};

/// NVML in a thread of its own: its start can take from milliseconds to seconds,
/// and a driver that hangs must not hang the tool. Any thread may call.
class GpuProbe {
 public:
  GpuProbe();
  /// Never waits for NVML: the thread is left behind when it hangs.
  ~GpuProbe();
  GpuProbe(const GpuProbe&) = delete;
  GpuProbe& operator=(const GpuProbe&) = delete;

  /// Whether one was ever made in this process: its thread may still be in NVML.
  static bool was_started();

  /// Asks for a new sample and returns the newest that is there after at most
  /// `longest_ms`; empty when there is none (yet).
  std::vector<GpuMemory> sample(int longest_ms);

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace kvshim::cli
