#include "tools/kvshim/snapshot.h"

#include <algorithm>

namespace kvshim::cli {

std::uint64_t GpuFigures::used_by_ours() const {
  std::uint64_t sum = 0;
  for (const ProcessFigures& process : processes) sum += process.on_gpu();
  return sum;
}

std::uint64_t GpuFigures::used_by_others() const {
  const std::uint64_t ours = used_by_ours();
  return used > ours ? used - ours : 0;
}

bool is_unreadable(const Snapshot& snapshot) {
  return !snapshot.problems.empty() &&
         std::all_of(snapshot.gpus.begin(), snapshot.gpus.end(),
                     [](const GpuFigures& gpu) { return gpu.processes.empty(); });
}

const ProcessFigures* find_process(const Snapshot& snapshot, const std::string& uuid,
                                   std::int64_t pid) {
  for (const GpuFigures& gpu : snapshot.gpus) {
    if (gpu.uuid != uuid) continue;
    for (const ProcessFigures& process : gpu.processes) {
      if (process.pid == pid) return &process;
    }
  }
  return nullptr;
}

Rates rates_of(const ProcessFigures& now, const ProcessFigures* before, double seconds) {
  Rates rates;
  if (before == nullptr || seconds <= 0) return rates;
  rates.known = true;
  const auto rate = [seconds](std::uint64_t later, std::uint64_t earlier) {
    return later > earlier ? static_cast<double>(later - earlier) / seconds : 0.0;
  };
  rates.faults = rate(now.faults, before->faults);
  rates.released = rate(now.released_bytes, before->released_bytes);
  rates.restored = rate(now.restored_bytes, before->restored_bytes);
  return rates;
}

std::string printable(const std::string& text, std::size_t longest) {
  std::string result = text.substr(0, longest);
  std::replace_if(
      result.begin(), result.end(), [](char c) { return c < 0x20 || c > 0x7e; }, '?');
  return result;
}

}  // namespace kvshim::cli
