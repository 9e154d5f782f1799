// Faults, the set-up of pools, parking and coming back, on a GPU or the simulator:
// each scenario in a process of its own under the preload. Prints one line of
// JSON a scenario, and a table at the end.
//
//   kvshim_bench_device [SCENARIO ...]      setup faults rows guard guard_copies parking
//                                           parking_sequence parking_large; all when none is named
//
// Times are what the host sees: the first write of a granule until it is done,
// less the median of the same call on a granule that is present.
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>
#include <regex>
#include <span>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "bench/device_work.h"
#include "bench/preloaded_run.h"

namespace kvshim::bench {
namespace {

struct Figure {
  std::string name;
  double value;
};

void print(const std::string& scenario, const Session& session,
           const std::vector<Figure>& figures) {
  std::ostringstream line;
  line << "{\"scenario\": \"" << scenario << "\", \"gpu\": \"" << session.gpu() << "\"";
  for (const Figure& figure : figures) line << ", \"" << figure.name << "\": " << figure.value;
  std::puts((line.str() + "}").c_str());
  std::fflush(stdout);
}

std::string text_of(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

/// The number behind "name": in this process's status file, written once a second.
double status_figure(const std::string& name) {
  std::this_thread::sleep_for(std::chrono::milliseconds(1400));
  const std::string text = text_of(work_folder() + "/" + std::to_string(getpid()) + ".json");
  std::smatch match;
  const std::regex pattern("\"" + name + "\": (\\d+)");
  return std::regex_search(text, match, pattern) ? std::stod(match[1]) : -1;
}

// --- setup: 60 GiB in 24 pools ---------------------------------------------------

void setup(bool plain) {
  Session session;
  constexpr std::size_t kPools = 24;
  std::size_t bytes = (std::size_t{60} << 30) / kPools;
  const std::size_t most =
      session.on_simulator() ? 32 * kMebibyte : session.total_bytes() / 100 * 85 / kPools;
  if (bytes > most) bytes = most;
  bytes = bytes / kGranuleBytes * kGranuleBytes;
  const Timer allocating;
  const std::vector<CUdeviceptr> pools = session.allocate(kPools, bytes);
  const double allocate_ms = allocating.milliseconds();
  const Timer filling;
  for (const CUdeviceptr pool : pools) {
    KVSHIM_BENCH_CHECK(cuMemsetD8Async(pool, 0, bytes, session.stream()));
  }
  session.wait();
  const double fill_ms = filling.milliseconds();
  const Timer freeing;
  for (const CUdeviceptr pool : pools) KVSHIM_BENCH_CHECK(cuMemFree(pool));
  print(plain ? "setup_plain" : "setup", session,
        {{"gib", static_cast<double>(bytes * kPools) / (1 << 30)},
         {"allocate_ms", allocate_ms},
         {"zero_fill_ms", fill_ms},
         {"free_ms", freeing.milliseconds()}});
}

// What the first writes to places 2 to `end` cost, less what a write to a present one costs.
template <class Write>
std::vector<Figure> first_writes(std::size_t end, const Write& write) {
  write(0);
  std::vector<double> splitting, plain, present;
  for (std::size_t at = 2; at + 1 < end; at += 2) {
    splitting.push_back(write(at));  // the first half of a pair: something is split for it
    plain.push_back(write(at + 1));  // its other half lies there by itself
    present.push_back(write(at));
  }
  const double there = median(present);
  return {{"count", static_cast<double>(plain.size())},
          {"present_us", there},
          {"no_split_p50_us", median(plain) - there},
          {"no_split_p99_us", quantile(plain, 0.99) - there},
          {"split_p50_us", median(splitting) - there},
          {"split_p99_us", quantile(splitting, 0.99) - there}};
}

// --- faults: one granule of one pool --------------------------------------------

void faults() {
  Session session;
  const std::size_t granules = session.on_simulator() ? 48 : 192;
  const CUdeviceptr pool = session.allocate(1, granules * kGranuleBytes)[0];
  const auto write = [&](std::size_t granule) {
    const Timer timer;
    KVSHIM_BENCH_CHECK(
        cuMemsetD8Async(pool + granule * kGranuleBytes + 4096, 1, 4096, session.stream()));
    session.wait();
    return timer.microseconds();
  };
  std::vector<Figure> figures = first_writes(granules, write);
  figures.push_back({"server_p50_us", status_figure("p50_us")});
  print("faults", session, figures);
}

// --- rows: keys and values of 24 sibling pools ------------------------------------

// A token of the first pool: its fault is answered at once, the siblings' granules follow. And a
// token of each pool, as a model's layers write it: done when all 48 granules are there.

void rows() {
  Session session;
  constexpr std::size_t kPools = 24;
  const std::size_t rows_measured = session.on_simulator() ? 16 : 96;
  const std::size_t bytes = 4 * rows_measured * kGranuleBytes;
  const std::vector<CUdeviceptr> pools = session.allocate(kPools, bytes);
  const auto write = [&](std::span<const CUdeviceptr> into, std::size_t row) {
    const Timer timer;
    for (const CUdeviceptr pool : into) {
      session.write_token(pool, bytes, row * kGranuleBytes + 4096);
    }
    session.wait();
    return timer.microseconds();
  };
  const auto first = [&](std::size_t row) { return write(std::span(pools).first(1), row); };
  const auto all = [&](std::size_t row) { return write(pools, rows_measured + row); };
  std::vector<Figure> figures = first_writes(rows_measured, first);
  for (Figure figure : first_writes(rows_measured, all)) {
    figure.name = "all_" + figure.name;
    figures.push_back(figure);
  }
  figures.push_back({"granules_present", status_figure("granules")});
  print("rows", session, figures);
}

// --- guards -------------------------------------------------------------------------

// A graph of decode writes to what is present. Less what it takes without the shim, that is what a
// guard that finds everything there costs on the GPU.
void guard(bool plain) {
  Session session;
  const int writes = session.on_simulator() ? 16 : 512;
  constexpr int kLaunches = 50;
  const std::size_t bytes = 8 * kGranuleBytes;
  const CUdeviceptr pool = session.allocate(1, bytes)[0];
  session.write_token(pool, bytes, 4096);
  session.wait();
  CUgraph graph = nullptr;
  CUgraphExec executable = nullptr;
  KVSHIM_BENCH_CHECK(cuStreamBeginCapture(session.stream(), CU_STREAM_CAPTURE_MODE_GLOBAL));
  for (int i = 0; i < writes; ++i) session.write_there_again(pool, bytes);
  KVSHIM_BENCH_CHECK(cuStreamEndCapture(session.stream(), &graph));
  KVSHIM_BENCH_CHECK(cuGraphInstantiate(&executable, graph, 0));
  std::vector<double> nanoseconds;
  for (int i = 0; i < kLaunches; ++i) {
    const Timer timer;
    KVSHIM_BENCH_CHECK(cuGraphLaunch(executable, session.stream()));
    session.wait();
    nanoseconds.push_back(1000 * timer.microseconds() / writes);
  }
  print(plain ? "guard_plain" : "guard", session, {{"write_ns", median(nanoseconds)}});
}

// A decode's guard brings back what is parked where its token goes, with the rows of its siblings.
void guard_copies() {
  Session session;
  constexpr std::size_t kPools = 24;
  const std::size_t bytes = (session.on_simulator() ? 8 : 32) * kGranuleBytes;
  const std::vector<CUdeviceptr> pools = session.allocate(kPools, bytes);
  for (const CUdeviceptr pool : pools) {
    KVSHIM_BENCH_CHECK(cuMemsetD8Async(pool, 7, bytes, session.stream()));
  }
  session.wait();
  std::this_thread::sleep_for(std::chrono::seconds(3));  // idle for idle_timeout: all is parked
  session.write_token(pools[0], bytes, 4096);
  session.wait();
  const double mib = status_figure("promoted_bytes") / kMebibyte;
  const double us = status_figure("guard_copies_us");
  print("guard_copies", session,
        {{"mib", mib}, {"us", us}, {"gb_s", us > 0 ? mib * kMebibyte / us / 1000 : 0}});
}

// --- parking and coming back -------------------------------------------------------

/// What the log tells of one release: the whole of it, and where its time went.
struct Release {
  double mib = 0, ms = 0;
  double scan = 0, prepare = 0, swap = 0, handles = 0, copies = 0;  // ms
};
struct Return {
  double mib = 0, ms = 0;
  double prepare = 0, swap = 0, copies = 0;  // ms
};

template <class Match>
void each_line(const std::string& scenario, const std::string& pattern, const Match& match) {
  const std::string text = text_of(work_folder() + "/" + scenario + ".log");
  const std::regex regex(pattern);
  for (std::sregex_iterator i(text.begin(), text.end(), regex), end; i != end; ++i) match(*i);
}

/// Both kinds of lines have two figures in the first form, which this is not.
void read_into(std::initializer_list<double*> parts, const std::smatch& match) {
  std::size_t group = 3;
  for (double* const part : parts) *part = std::stod(match[group++]);
}

std::vector<Release> releases(const std::string& scenario) {
  std::vector<Release> all;
  each_line(
      scenario,
      "released \\d+ MiB in (\\d+) ms: \\d+ MiB zero, (\\d+) MiB parked in host memory|of that "
      "release: scan ([\\d.]+) ms, preparing copies ([\\d.]+) ms, swaps ([\\d.]+) ms, releasing "
      "handles ([\\d.]+) ms, waiting for copies ([\\d.]+) ms",
      [&](const std::smatch& m) {
        if (m[1].matched) {
          all.push_back({});
          all.back().ms = std::stod(m[1]);
          all.back().mib = std::stod(m[2]);
        } else if (!all.empty()) {
          Release& last = all.back();
          read_into({&last.scan, &last.prepare, &last.swap, &last.handles, &last.copies}, m);
        }
      });
  return all;
}

std::vector<Return> returns(const std::string& scenario) {
  std::vector<Return> all;
  each_line(
      scenario,
      "brought back (\\d+) MiB in (\\d+) us before|of that return: preparing ([\\d.]+) ms, swaps "
      "([\\d.]+) ms, waiting for copies ([\\d.]+) ms",
      [&](const std::smatch& m) {
        if (m[1].matched) {
          all.push_back({std::stod(m[1]), std::stod(m[2]) / 1000});
        } else if (!all.empty()) {
          Return& last = all.back();
          read_into({&last.prepare, &last.swap, &last.copies}, m);
        }
      });
  return all;
}

/// Waits until the log tells of `count` moves; false after a minute.
template <class Moves>
bool told(const Moves& moves, const std::string& scenario, std::size_t count) {
  const Timer timer;
  while (moves(scenario).size() < count) {
    if (timer.milliseconds() > 60'000) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  return true;
}

double rate(double mib, double ms) { return ms > 0 ? mib * 1.048576 / ms : 0; }

// Contents are made, parked, brought back by the next work, and parked again: what was
// in extents of 2 MiB comes back in larger ones. The host slabs are made in the
// background before the first release (idle_timeout is long enough).
void measure_moves(const std::string& scenario, Session* session, CUdeviceptr pool,
                   std::size_t bytes) {
  if (!told(releases, scenario, 1)) return;
  session->write_token(pool, bytes, 4096);  // restore_time is long enough for everything
  session->wait();
  if (!told(returns, scenario, 1) || !told(releases, scenario, 2)) return;
  std::this_thread::sleep_for(std::chrono::milliseconds(1400));  // the lines that follow
  const Release first = releases(scenario)[0], again = releases(scenario)[1];
  const Return back = returns(scenario)[0];
  print(scenario, *session,
        {{"parked_mib", first.mib},
         {"park_ms", first.ms},
         {"park_gb_s", rate(first.mib, first.ms)},
         {"scan_ms", first.scan},
         {"prepare_ms", first.prepare},
         {"swap_ms", first.swap},
         {"release_handles_ms", first.handles},
         {"wait_for_copies_ms", first.copies},
         {"back_mib", back.mib},
         {"back_ms", back.ms},
         {"back_gb_s", rate(back.mib, back.ms)},
         {"back_prepare_ms", back.prepare},
         {"back_swap_ms", back.swap},
         {"back_wait_for_copies_ms", back.copies},
         {"park_again_gb_s", rate(again.mib, again.ms)}});
}

// 24 layers with keys and values, one row of 2 MiB after another. With `waits` each is made
// present by a fault of its own; else they come as an engine that decodes writes them, and
// extents grow with the read-ahead.
void parking(const std::string& scenario, bool waits) {
  Session session;
  constexpr std::size_t kPools = 24;
  const std::size_t rows_written = session.on_simulator() ? 8 : 32;
  const std::size_t bytes = 2 * rows_written * kGranuleBytes;
  const std::vector<CUdeviceptr> pools = session.allocate(kPools, bytes);
  for (std::size_t row = 0; row < rows_written; ++row) {
    for (const CUdeviceptr pool : pools) {
      session.write_token(pool, bytes, row * kGranuleBytes + 4096);
    }
    if (waits) session.wait();
  }
  session.wait();
  measure_moves(scenario, &session, pools[0], bytes);
}

// In the largest extents.
void parking_large() {
  Session session;
  const std::size_t bytes = (session.on_simulator() ? 64 : 1024) * kMebibyte;
  const std::vector<CUdeviceptr> pools = session.allocate(4, bytes);
  for (const CUdeviceptr pool : pools) {
    KVSHIM_BENCH_CHECK(cuMemsetD8Async(pool, 7, bytes, session.stream()));
  }
  session.wait();
  measure_moves("parking_large", &session, pools[0], bytes);
}

const std::map<std::string, std::string>& shim_options() {
  static const auto* const options = new std::map<std::string, std::string>{
      {"setup", ""},
      // Exactly the granules that are asked for, and no release in between.
      {"faults", "read_ahead_max = \"2MiB\"\nidle_timeout = \"60s\"\n"},
      {"rows", "read_ahead_max = \"2MiB\"\nidle_timeout = \"60s\"\n"},
      {"guard", ""},
      {"guard_copies", "idle_timeout = \"1s\"\nrestore_time = \"0s\"\nread_ahead_max = \"8MiB\"\n"},
      {"parking",
       "idle_timeout = \"5s\"\nrestore_time = \"5s\"\nlog_level = \"debug\"\n"
       "read_ahead_max = \"2MiB\"\n"},
      {"parking_sequence", "idle_timeout = \"5s\"\nrestore_time = \"5s\"\nlog_level = \"debug\"\n"},
      {"parking_large", "idle_timeout = \"5s\"\nrestore_time = \"5s\"\nlog_level = \"debug\"\n"},
  };
  return *options;
}

int run_child(const char* scenario) {
  if (std::strcmp(scenario, "setup_plain") == 0) setup(true);
  if (std::strcmp(scenario, "setup") == 0) setup(false);
  if (std::strcmp(scenario, "faults") == 0) faults();
  if (std::strcmp(scenario, "rows") == 0) rows();
  if (std::strcmp(scenario, "guard_plain") == 0) guard(true);
  if (std::strcmp(scenario, "guard") == 0) guard(false);
  if (std::strcmp(scenario, "guard_copies") == 0) guard_copies();
  if (std::strcmp(scenario, "parking") == 0) parking(scenario, true);
  if (std::strcmp(scenario, "parking_sequence") == 0) parking(scenario, false);
  if (std::strcmp(scenario, "parking_large") == 0) parking_large();
  return 0;
}

}  // namespace
}  // namespace kvshim::bench

int main(int argc, char** argv) {
  using namespace kvshim::bench;
  if (is_preloaded_child()) return argc == 2 ? run_child(argv[1]) : 2;
  work_folder();
  std::vector<std::string> scenarios(argv + 1, argv + argc);
  if (scenarios.empty()) {
    scenarios = {"setup_plain",      "setup",        "faults",       "rows",
                 "guard_plain",      "guard",        "guard_copies", "parking",
                 "parking_sequence", "parking_large"};
  }
  int failures = 0;
  for (const std::string& scenario : scenarios) {
    const bool plain = scenario == "setup_plain" || scenario == "guard_plain";
    if (!plain && shim_options().count(scenario) == 0) {
      std::fprintf(stderr, "no scenario is called %s\n", scenario.c_str());
      return 2;
    }
    const std::string output = run_again(
        {scenario}, plain ? Environment{} : shim_environment(scenario, shim_options().at(scenario)),
        plain);
    std::fputs(output.c_str(), stdout);
    std::fflush(stdout);
    if (output.empty()) {
      ++failures;
      const std::string log = text_of(work_folder() + "/" + scenario + ".log");
      std::fputs(log.substr(log.size() > 2000 ? log.size() - 2000 : 0).c_str(), stderr);
    }
  }
  return failures == 0 ? 0 : 1;
}
