// kvshim bench.
#include <algorithm>
#include <charconv>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "config/options.h"
#include "config/quantities.h"
#include "tools/kvshim/bench_figures.h"
#include "tools/kvshim/commands.h"
#include "tools/kvshim/figures_text.h"
#include "tools/kvshim/json_output.h"

namespace kvshim::cli {
namespace {

constexpr double kGiB = 1 << 30;
constexpr double kSwapsOfARow = 48;  // 24 pools (layers), K and V apart

[[gnu::format(printf, 1, 2)]] std::string formatted(const char* form, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, form);
  std::vsnprintf(text, sizeof text, form, arguments);
  va_end(arguments);
  return text;
}

std::string mib(std::uint64_t bytes) { return std::to_string(bytes >> 20) + " MiB"; }

/// Microseconds that a GiB costs in handles of that size.
double commit_gib(const HandleFigures& handle) {
  return handle.commit() * kGiB / static_cast<double>(handle.bytes);
}

int gpu_index(const std::string& text) {
  int index = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), index);
  if (!text.empty() && (error != std::errc() || end != text.data() + text.size() || index < 0)) {
    throw Failure(Exit::kUsage, "--gpu: '" + printable(text) + "' is no index of a GPU");
  }
  return index;
}

nlohmann::json document_of(const BenchFigures& figures) {
  nlohmann::json handles = nlohmann::json::array();
  for (const HandleFigures& handle : figures.handles) {
    handles.push_back({{"bytes", handle.bytes},
                       {"create_us", handle.create},
                       {"map_us", handle.map},
                       {"access_us", handle.access},
                       {"unmap_us", handle.unmap},
                       {"release_us", handle.release},
                       {"swap_us", handle.swap}});
  }
  return {{"gpu", figures.gpu},
          {"driver_version", figures.driver},
          {"handles", handles},
          {"plain_alloc_us_per_gib", figures.plain_alloc_gib},
          {"plain_free_us_per_gib", figures.plain_free_gib},
          {"host_handle_us_per_gib", figures.host_handle_gib},
          {"to_host_bytes_per_second", figures.to_host},
          {"from_host_bytes_per_second", figures.from_host},
          {"advice", advice_of(figures)}};
}

void print(const BenchFigures& figures) {
  std::printf("%s, driver for CUDA %d.%d; medians in microseconds per call\n\n",
              figures.gpu.c_str(), figures.driver / 1000, figures.driver % 1000 / 10);
  std::printf("   handle  create     map  access   unmap release    swap   1 GiB up    down\n");
  for (const HandleFigures& handle : figures.handles) {
    const double down = handle.give_back() * kGiB / static_cast<double>(handle.bytes);
    std::printf("%9s %7.1f %7.1f %7.1f %7.1f %7.1f %7.1f %7.2f ms %4.2f ms\n",
                mib(handle.bytes).c_str(), handle.create, handle.map, handle.access, handle.unmap,
                handle.release, handle.swap, commit_gib(handle) / 1000, down / 1000);
  }
  std::printf("\ncuMemAlloc of 1 GiB: %.2f ms, cuMemFree: %.2f ms\n",
              figures.plain_alloc_gib / 1000, figures.plain_free_gib / 1000);
  std::printf("host memory: %.0f ms per GiB to make; copies %.1f GB/s to it, %.1f GB/s back\n\n",
              figures.host_handle_gib / 1000, figures.to_host / 1e9, figures.from_host / 1e9);
  for (const std::string& line : advice_of(figures)) std::printf("%s\n", line.c_str());
}

}  // namespace

std::vector<std::string> advice_of(const BenchFigures& figures) {
  const config::Options defaults;
  std::vector<std::string> lines;
  if (figures.handles.empty()) return lines;
  const HandleFigures& granule = figures.handles.front();
  lines.push_back(formatted(
      "a fault: at least %.0f us for one granule, %.1f ms for a row of 24 pools "
      "with K and V apart",
      granule.create + granule.swap, kSwapsOfARow * (granule.create + granule.swap) / 1000));
  // Beyond the size where a GiB costs little more than in the largest handles,
  // larger extents only hold memory that nobody writes.
  const double best = commit_gib(*std::min_element(
      figures.handles.begin(), figures.handles.end(),
      [](const auto& a, const auto& b) { return commit_gib(a) < commit_gib(b); }));
  const auto fits = std::find_if(figures.handles.begin(), figures.handles.end(),
                                 [&](const HandleFigures& handle) {
                                   return commit_gib(handle) <= std::max(best * 8, 2000.0);
                                 });
  const bool same = fits->bytes == defaults.read_ahead_max;
  lines.push_back(formatted("read_ahead_max = \"%s\": %s (%.1f ms per GiB)%s",
                            config::format_bytes(fits->bytes).c_str(),
                            same ? "the default fits" : "fits this GPU better than the default",
                            commit_gib(*fits) / 1000, same ? "" : "; the default is 32MiB"));
  const double restored =
      figures.from_host * std::chrono::duration<double>(defaults.restore_time).count();
  lines.push_back(formatted("restore_time = \"%s\": brings back at most %s before the first work",
                            config::format_duration(defaults.restore_time).c_str(),
                            long_bytes(static_cast<std::uint64_t>(restored)).c_str()));
  const double away = kGiB / figures.to_host + granule.swap * 32 / 1e6;
  const double back = kGiB / figures.from_host + granule.swap * 32 / 1e6;
  const double idle = std::chrono::duration<double>(defaults.idle_timeout).count();
  lines.push_back(
      formatted("idle_timeout = \"%s\": parking 1 GiB and bringing it back takes %.0f ms, "
                "%.1f %% of it",
                config::format_duration(defaults.idle_timeout).c_str(), (away + back) * 1000,
                100 * (away + back) / idle));
  lines.push_back(
      formatted("host memory takes %.0f ms per GiB to make: kvshim makes it ahead, in pieces "
                "of 64 MiB",
                figures.host_handle_gib / 1000));
  if (figures.from_host < 10e9) {
    lines.push_back(
        formatted("coming back at %.1f GB/s is slow (a narrow PCIe link?): prefer contents = "
                  "\"disposable\" where the engine allows it, or a longer idle_timeout",
                  figures.from_host / 1e9));
  }
  return lines;
}

Exit run_bench(const Invocation& invocation) {
  // Were the library preloaded here, too, it would be what is measured.
  ::setenv("KVSHIM_DISABLE", "1", 1);
  const BenchFigures figures = measure(gpu_index(invocation.gpu), invocation.quick);
  if (invocation.json) {
    print_json(document_of(figures));
  } else {
    print(figures);
  }
  return Exit::kDone;
}

}  // namespace kvshim::cli
