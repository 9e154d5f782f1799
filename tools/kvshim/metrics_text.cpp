#include "tools/kvshim/metrics_text.h"

#include <array>
#include <cmath>
#include <cstdio>
#include <functional>
#include <string_view>
#include <utility>
#include <vector>

namespace kvshim::cli {
namespace {

std::string escaped(const std::string& value) {
  std::string result;
  for (const char c : value) {
    if (c == '\\' || c == '"') result += '\\';
    result += c == '\n' ? ' ' : c;
  }
  return result;
}

using Labels = std::vector<std::pair<std::string, std::string>>;

std::string with_labels(const std::string& name, const Labels& labels) {
  std::string text = name + "{";
  for (const auto& [label, value] : labels) {
    text += (text.back() == '{' ? "" : ",") + label + "=\"" + escaped(value) + "\"";
  }
  return text + "}";
}

std::string number(double value) {
  std::array<char, 40> text{};
  if (value == std::floor(value) && std::abs(value) < 1e15) {
    std::snprintf(text.data(), text.size(), "%.0f", value);
    return text.data();
  }
  std::snprintf(text.data(), text.size(), "%.17g", value);
  // The shortest text that reads back as the same number.
  for (int digits = 1; digits < 17; ++digits) {
    std::array<char, 40> shorter{};
    std::snprintf(shorter.data(), shorter.size(), "%.*g", digits, value);
    double back = 0;
    if (std::sscanf(shorter.data(), "%lf", &back) == 1 && back == value) return shorter.data();
  }
  return text.data();
}

double as_double(std::uint64_t value) { return static_cast<double>(value); }
double as_seconds(std::uint64_t microseconds) { return static_cast<double>(microseconds) / 1e6; }

class Page {
 public:
  void begin(const std::string& name, const char* type, const char* help) {
    text_ += "# HELP " + name + " " + help + "\n# TYPE " + name + " " + type + "\n";
  }
  void add(const std::string& name, const Labels& labels, double value) {
    text_ += with_labels(name, labels) + " " + number(value) + "\n";
  }
  void add(const std::string& name, double value) { text_ += name + " " + number(value) + "\n"; }
  std::string take() { return std::move(text_); }

 private:
  std::string text_;
};

Labels labels_of(const GpuFigures& gpu) { return {{"gpu", gpu.uuid}, {"gpu_name", gpu.name}}; }

Labels labels_of(const GpuFigures& gpu, const ProcessFigures& process) {
  return {{"gpu", gpu.uuid}, {"pid", std::to_string(process.pid)}, {"process", process.name}};
}

void for_each_process(const Snapshot& snapshot,
                      const std::function<void(const Labels&, const ProcessFigures&)>& call) {
  for (const GpuFigures& gpu : snapshot.gpus) {
    for (const ProcessFigures& process : gpu.processes) call(labels_of(gpu, process), process);
  }
}

struct Simple {
  const char* name;
  const char* type;
  const char* help;
  double (*value)(const ProcessFigures& process);
};

constexpr std::array<Simple, 15> kSimple{{
    {"kvshim_process_host_memory_bytes", "gauge", "Host memory held for parked contents.",
     [](const ProcessFigures& p) { return as_double(p.host); }},
    {"kvshim_process_reserve_bytes", "gauge", "GPU memory that neighbours never take.",
     [](const ProcessFigures& p) { return as_double(p.reserve); }},
    {"kvshim_process_priority", "gauge", "Processes of lower priority give way first.",
     [](const ProcessFigures& p) { return static_cast<double>(p.priority); }},
    {"kvshim_process_paused", "gauge", "1 while the process releases nothing.",
     [](const ProcessFigures& p) { return p.paused ? 1.0 : 0.0; }},
    {"kvshim_process_in_need", "gauge", "1 while the process asks its neighbours for memory.",
     [](const ProcessFigures& p) { return p.in_need ? 1.0 : 0.0; }},
    {"kvshim_process_idle_seconds", "gauge", "Time since work last reached a pool.",
     [](const ProcessFigures& p) { return p.idle_seconds; }},
    {"kvshim_process_silent_seconds", "gauge", "Time since the process last published its figures.",
     [](const ProcessFigures& p) { return p.silent_seconds; }},
    {"kvshim_process_releases_total", "counter", "Releases so far.",
     [](const ProcessFigures& p) { return as_double(p.releases); }},
    {"kvshim_process_released_bytes_total", "counter", "GPU memory released so far.",
     [](const ProcessFigures& p) { return as_double(p.released_bytes); }},
    {"kvshim_process_restored_bytes_total", "counter", "Parked contents brought back so far.",
     [](const ProcessFigures& p) { return as_double(p.restored_bytes); }},
    {"kvshim_process_dropped_bytes_total", "counter",
     "Contents dropped so far where the configuration says that they are disposable.",
     [](const ProcessFigures& p) { return as_double(p.dropped_bytes); }},
    {"kvshim_process_given_bytes_total", "counter",
     "GPU memory given to neighbours that needed it, so far.",
     [](const ProcessFigures& p) { return as_double(p.given_bytes); }},
    {"kvshim_process_got_bytes_total", "counter",
     "GPU memory that neighbours gave after a wait, so far.",
     [](const ProcessFigures& p) { return as_double(p.got_bytes); }},
    {"kvshim_process_needs_answered_total", "counter",
     "Waits for neighbours that ended with memory, so far.",
     [](const ProcessFigures& p) { return as_double(p.needs_answered); }},
    {"kvshim_process_needs_unanswered_total", "counter",
     "Waits for neighbours that ended without, so far.",
     [](const ProcessFigures& p) { return as_double(p.needs_unanswered); }},
}};

void add_gpus(const Snapshot& snapshot, Page* page) {
  page->begin("kvshim_gpu_memory_size_bytes", "gauge", "Memory of the GPU.");
  for (const GpuFigures& gpu : snapshot.gpus) {
    page->add("kvshim_gpu_memory_size_bytes", labels_of(gpu), as_double(gpu.total));
  }
  page->begin("kvshim_gpu_memory_used_bytes", "gauge", "GPU memory in use, by all programs.");
  for (const GpuFigures& gpu : snapshot.gpus) {
    page->add("kvshim_gpu_memory_used_bytes", labels_of(gpu), as_double(gpu.used));
  }
}

void add_sizes(const Snapshot& snapshot, Page* page) {
  page->begin("kvshim_process_gpu_memory_bytes", "gauge",
              "GPU memory of the process: of its pools (kv), kept ready (cache), and the rest "
              "(other: weights, activations).");
  for_each_process(snapshot, [&](const Labels& labels, const ProcessFigures& process) {
    for (const auto& [kind, bytes] :
         {std::pair("kv", process.resident), {"cache", process.caches}, {"other", process.other}}) {
      if (kind == std::string_view("other") && bytes == 0) continue;  // unknown
      Labels all = labels;
      all.emplace_back("kind", kind);
      page->add("kvshim_process_gpu_memory_bytes", all, as_double(bytes));
    }
  });
  page->begin("kvshim_process_pool_bytes", "gauge",
              "Size of the process's pools by where their contents are: GPU memory (resident), "
              "host memory (parked), nowhere (absent).");
  for_each_process(snapshot, [&](const Labels& labels, const ProcessFigures& process) {
    for (const auto& [state, bytes] : {std::pair("resident", process.resident),
                                       {"parked", process.parked},
                                       {"absent", process.absent}}) {
      Labels all = labels;
      all.emplace_back("state", state);
      page->add("kvshim_process_pool_bytes", all, as_double(bytes));
    }
  });
  page->begin("kvshim_process_limit_bytes", "gauge",
              "Most GPU memory of the process; absent where there is no limit.");
  for_each_process(snapshot, [&](const Labels& labels, const ProcessFigures& process) {
    if (process.limit != kNoLimit) {
      page->add("kvshim_process_limit_bytes", labels, as_double(process.limit));
    }
  });
}

void add_shares(const Snapshot& snapshot, Page* page) {
  page->begin("kvshim_process_group_share_bytes", "gauge",
              "What the limits of its groups leave the process now; absent where there is none.");
  for_each_process(snapshot, [&](const Labels& labels, const ProcessFigures& process) {
    if (process.share != 0) {
      page->add("kvshim_process_group_share_bytes", labels, as_double(process.share));
    }
  });
  page->begin("kvshim_group_limit_bytes", "gauge", "Most GPU memory of a group's processes.");
  for (const GpuFigures& gpu : snapshot.gpus) {
    for (const GroupFigures& group : gpu.groups) {
      if (group.limit == kNoLimit) continue;
      Labels all = labels_of(gpu);
      all.emplace_back("group", group.name);
      page->add("kvshim_group_limit_bytes", all, as_double(group.limit));
    }
  }
}

void add_faults(const Snapshot& snapshot, Page* page) {
  const std::string name = "kvshim_process_fault_duration_seconds";
  page->begin(name, "summary", "Time in which faults were served.");
  for_each_process(snapshot, [&](const Labels& labels, const ProcessFigures& process) {
    for (const auto& [quantile, microseconds] :
         {std::pair("0.5", process.fault_p50_us), {"0.99", process.fault_p99_us}}) {
      Labels all = labels;
      all.emplace_back("quantile", quantile);
      page->add(name, all, as_seconds(microseconds));
    }
    page->add(name + "_sum", labels, as_seconds(process.fault_total_us));
    page->add(name + "_count", labels, as_double(process.faults));
  });
}

}  // namespace

std::string metrics_text(const Snapshot& snapshot) {
  Page page;
  page.begin("kvshim_build_info", "gauge", "1, with the version of the tool that exports.");
  page.add("kvshim_build_info", {{"version", KVSHIM_VERSION}}, 1);
  page.begin("kvshim_unreadable_segments", "gauge",
             "Shared segments of another version or damaged.");
  page.add("kvshim_unreadable_segments", as_double(snapshot.problems.size()));
  add_gpus(snapshot, &page);
  add_sizes(snapshot, &page);
  add_shares(snapshot, &page);
  add_faults(snapshot, &page);
  for (const Simple& simple : kSimple) {
    page.begin(simple.name, simple.type, simple.help);
    for_each_process(snapshot, [&](const Labels& labels, const ProcessFigures& process) {
      page.add(simple.name, labels, simple.value(process));
    });
  }
  return page.take();
}

}  // namespace kvshim::cli
