#include "tools/kvshim/json_output.h"

#include <cstdio>
#include <nlohmann/json.hpp>

#include "tools/kvshim/start_time.h"

namespace kvshim::cli {
namespace {

nlohmann::json json_of(const ProcessFigures& process, const ProcessFigures* before,
                       double seconds) {
  nlohmann::json document = {
      {"pid", process.pid},
      {"name", process.name},
      {"started_at", json_time(process.started)},
      {"group", process.group},
      {"pool_bytes", process.pools},
      {"resident_bytes", process.resident},
      {"parked_bytes", process.parked},
      {"absent_bytes", process.absent},
      {"cache_bytes", process.caches},
      {"other_bytes", json_bytes(process.other)},
      {"host_bytes", process.host},
      {"on_gpu_bytes", process.on_gpu()},
      {"limit_bytes", json_bytes(process.limit)},
      {"group_share_bytes", json_bytes(process.share)},
      {"reserve_bytes", process.reserve},
      {"priority", process.priority},
      {"paused", process.paused},
      {"in_need", process.in_need},
      {"idle_seconds", process.idle_seconds},
      {"silent_seconds", process.silent_seconds},
      {"faults",
       {{"count", process.faults},
        {"p50_us", process.fault_p50_us},
        {"p99_us", process.fault_p99_us},
        {"max_us", process.fault_max_us}}},
      {"releases", process.releases},
      {"released_bytes_total", process.released_bytes},
      {"restored_bytes_total", process.restored_bytes},
      {"dropped_bytes_total", process.dropped_bytes},
      {"given_bytes_total", process.given_bytes},
      {"got_bytes_total", process.got_bytes},
      {"needs_answered", process.needs_answered},
      {"needs_unanswered", process.needs_unanswered},
  };
  if (before != nullptr) {
    const Rates rates = rates_of(process, before, seconds);
    document["rates"] = {{"faults_per_second", rates.faults},
                         {"released_bytes_per_second", rates.released},
                         {"restored_bytes_per_second", rates.restored}};
  }
  return document;
}

}  // namespace

void print_json(const nlohmann::json& document) {
  std::printf("%s\n",
              document.dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
}

nlohmann::json json_time(std::int64_t unix_seconds) {
  const std::string text = utc_text(unix_seconds);
  return text.empty() ? nlohmann::json() : nlohmann::json(text);
}

nlohmann::json json_bytes(std::uint64_t bytes) {
  if (bytes == 0 || bytes == kNoLimit) return nullptr;
  return bytes;
}

nlohmann::json json_of(const Snapshot& now, const Snapshot* before) {
  nlohmann::json gpus = nlohmann::json::array();
  for (const GpuFigures& gpu : now.gpus) {
    nlohmann::json processes = nlohmann::json::array();
    for (const ProcessFigures& process : gpu.processes) {
      const ProcessFigures* earlier =
          before == nullptr ? nullptr : find_process(*before, gpu.uuid, process.pid);
      processes.push_back(
          json_of(process, earlier, before == nullptr ? 0 : now.seconds - before->seconds));
    }
    nlohmann::json groups = nlohmann::json::array();
    for (const GroupFigures& group : gpu.groups) {
      groups.push_back({{"name", group.name},
                        {"limit_bytes", json_bytes(group.limit)},
                        {"reserve_bytes", group.reserve},
                        {"priority", group.priority},
                        {"paused", group.paused}});
    }
    gpus.push_back({{"uuid", gpu.uuid},
                    {"name", gpu.name},
                    {"index", gpu.index < 0 ? nlohmann::json() : nlohmann::json(gpu.index)},
                    {"total_bytes", gpu.total},
                    {"used_bytes", gpu.used},
                    {"used_by_others_bytes", gpu.used_by_others()},
                    {"groups", groups},
                    {"processes", processes}});
  }
  return {{"version", KVSHIM_VERSION}, {"gpus", gpus}, {"problems", now.problems}};
}

}  // namespace kvshim::cli
