// kvshim list.
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "tools/kvshim/commands.h"
#include "tools/kvshim/figures_text.h"
#include "tools/kvshim/json_output.h"
#include "tools/kvshim/output.h"
#include "tools/kvshim/process_table.h"
#include "tools/kvshim/snapshot_source.h"

namespace kvshim::cli {
namespace {

constexpr int kWidth = 160;  // wide enough for all columns
constexpr int kListProbe_ms = 20;
constexpr double kDefaultInterval = 2;

void print_names(const Snapshot& snapshot) {
  std::set<std::string> words;
  for (const GpuFigures& gpu : snapshot.gpus) {
    for (const ProcessFigures& process : gpu.processes) {
      words.insert(std::to_string(process.pid));
      words.insert(process.name);
    }
  }
  for (const std::string& word : words) std::printf("%s\n", word.c_str());
}

void print_gpu(const GpuFigures& gpu, const Snapshot& now, const Snapshot* before) {
  std::vector<Row> rows;
  for (const ProcessFigures& process : gpu.processes) {
    const ProcessFigures* earlier =
        before == nullptr ? nullptr : find_process(*before, gpu.uuid, process.pid);
    rows.push_back({process, rates_of(process, earlier,
                                      before == nullptr ? 0 : now.seconds - before->seconds)});
  }
  sort_rows(rows, "pid");
  std::printf("%s%s%s%s: %s of %s used\n", gpu.uuid.c_str(), gpu.name.empty() ? "" : " (",
              gpu.name.c_str(), gpu.name.empty() ? "" : ")", long_bytes(gpu.used).c_str(),
              long_bytes(gpu.total).c_str());
  std::fputs(plain_text(process_table(rows, std::vector<int>(rows.size(), -1), "", kWidth)).c_str(),
             stdout);
  for (const GroupFigures& group : gpu.groups) {
    std::printf("  group %s: limit %s, reserve %s, priority %d%s\n", group.name.c_str(),
                group.limit == kNoLimit ? "none" : long_bytes(group.limit).c_str(),
                group.reserve == 0 ? "none" : long_bytes(group.reserve).c_str(), group.priority,
                group.paused ? ", paused" : "");
  }
}

void print_list(const Snapshot& now, const Snapshot* before) {
  bool any = false;
  for (const GpuFigures& gpu : now.gpus) {
    if (gpu.processes.empty()) continue;
    if (any) std::printf("\n");
    any = true;
    print_gpu(gpu, now, before);
  }
  if (!any) std::printf("no process of this user runs under kvshim with pools\n");
  for (const std::string& problem : now.problems) {
    std::fprintf(stderr, "kvshim: %s\n", problem.c_str());
  }
}

}  // namespace

Exit run_list(const Invocation& invocation) {
  const std::string folder = segment_folder();
  if (invocation.names) {
    print_names(take_snapshot(folder, nullptr, 0));
    return Exit::kDone;
  }
  GpuProbe probe;
  Snapshot before;
  bool first = true;
  for (;;) {
    Snapshot now = take_snapshot(folder, &probe, kListProbe_ms);
    if (invocation.json) {
      print_json(json_of(now, first ? nullptr : &before));
    } else {
      if (!first) std::printf("\n");
      print_list(now, first ? nullptr : &before);
    }
    if (!invocation.watch) {
      return is_unreadable(now) ? Exit::kForeignSegment : Exit::kDone;
    }
    if (flush_output() != 0) return Exit::kDone;  // to nobody any more
    before = std::move(now);
    first = false;
    std::this_thread::sleep_for(std::chrono::duration<double>(
        invocation.interval > 0 ? invocation.interval : kDefaultInterval));
  }
}

}  // namespace kvshim::cli
