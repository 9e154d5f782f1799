// Faults, the set-up of pools, parking and coming back, on a GPU or the simulator:
// each scenario in a process of its own under the preload. Prints one line of
// JSON a scenario, and a table at the end.
//
//   kvshim_bench_device [SCENARIO ...]      setup faults rows parking; all when none is named
//
// Times are what the host sees: the first write of a granule until it is done,
// less the median of the same call on a granule that is present.
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>
#include <regex>
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
  write(0);
  std::vector<double> splitting, plain, present;
  for (std::size_t g = 2; g + 1 < granules; g += 2) {
    splitting.push_back(write(g));  // the first half of a pair: something is split for it
    plain.push_back(write(g + 1));  // its other half lies there by itself
    present.push_back(write(g));
  }
  const double there = median(present);
  print("faults", session,
        {{"count", static_cast<double>(plain.size())},
         {"present_us", there},
         {"no_split_p50_us", median(plain) - there},
         {"no_split_p99_us", quantile(plain, 0.99) - there},
         {"split_p50_us", median(splitting) - there},
         {"split_p99_us", quantile(splitting, 0.99) - there},
         {"server_p50_us", status_figure("p50_us")}});
}

// --- rows: keys and values of 24 sibling pools ------------------------------------

void rows() {
  Session session;
  constexpr std::size_t kPools = 24;
  const std::size_t rows_measured = session.on_simulator() ? 16 : 96;
  const std::size_t bytes = 2 * rows_measured * kGranuleBytes;
  const std::vector<CUdeviceptr> pools = session.allocate(kPools, bytes);
  const auto write = [&](std::size_t row) {
    const Timer timer;
    session.write_token(pools[0], bytes, row * kGranuleBytes + 4096);
    session.wait();
    return timer.microseconds();
  };
  write(0);
  std::vector<double> splitting, plain, present;
  for (std::size_t row = 2; row + 1 < rows_measured; row += 2) {
    splitting.push_back(write(row));
    plain.push_back(write(row + 1));
    present.push_back(write(row));
  }
  const double there = median(present);
  print("rows", session,
        {{"count", static_cast<double>(plain.size())},
         {"present_us", there},
         {"no_split_p50_us", median(plain) - there},
         {"no_split_p99_us", quantile(plain, 0.99) - there},
         {"split_p50_us", median(splitting) - there},
         {"split_p99_us", quantile(splitting, 0.99) - there},
         {"granules_present", status_figure("granules")}});
}

// --- parking and coming back -------------------------------------------------------

struct Moves {
  double parked_mib = 0, park_ms = 0, back_mib = 0, back_ms = 0;
};

/// The last release and the last coming back that the log tells of.
Moves last_moves(const std::string& log) {
  const std::string text = text_of(log);
  Moves moves;
  const std::regex released(
      "released \\d+ MiB in (\\d+) ms: \\d+ MiB zero, (\\d+) MiB parked in host memory");
  const std::regex back("brought back (\\d+) MiB in (\\d+) us");
  for (std::sregex_iterator i(text.begin(), text.end(), released), end; i != end; ++i) {
    if (std::stod((*i)[2]) < moves.parked_mib) continue;  // the rest of an interrupted one
    moves.park_ms = std::stod((*i)[1]);
    moves.parked_mib = std::stod((*i)[2]);
  }
  for (std::sregex_iterator i(text.begin(), text.end(), back), end; i != end; ++i) {
    moves.back_mib = std::stod((*i)[1]);
    moves.back_ms = std::stod((*i)[2]) / 1000;
  }
  return moves;
}

void parking() {
  Session session;
  const std::size_t bytes = (session.on_simulator() ? 64 : 1024) * kMebibyte;
  const std::vector<CUdeviceptr> pools = session.allocate(4, bytes);
  const auto idle = [] { std::this_thread::sleep_for(std::chrono::milliseconds(2500)); };
  for (int cycle = 0; cycle < 3; ++cycle) {  // the first ones make the host slabs
    for (const CUdeviceptr pool : pools) {
      KVSHIM_BENCH_CHECK(
          cuMemsetD8Async(pool, static_cast<unsigned char>(1 + cycle), bytes, session.stream()));
    }
    session.wait();
    idle();
  }
  session.write_token(pools[0], bytes, 4096);  // brings back what fits in restore_time
  session.wait();
  idle();
  const Moves moves = last_moves(work_folder() + "/parking.log");
  const auto rate = [](double mib, double ms) { return ms > 0 ? mib * 1.048576 / ms : 0; };
  print("parking", session,
        {{"parked_mib", moves.parked_mib},
         {"park_ms", moves.park_ms},
         {"park_gb_s", rate(moves.parked_mib, moves.park_ms)},
         {"back_mib", moves.back_mib},
         {"back_ms", moves.back_ms},
         {"back_gb_s", rate(moves.back_mib, moves.back_ms)}});
}

const std::map<std::string, std::string>& shim_options() {
  static const auto* const options = new std::map<std::string, std::string>{
      {"setup", ""},
      // Exactly the granules that are asked for, and no release in between.
      {"faults", "read_ahead_max = \"2MiB\"\nidle_timeout = \"60s\"\n"},
      {"rows", "read_ahead_max = \"2MiB\"\nidle_timeout = \"60s\"\n"},
      {"parking", "idle_timeout = \"300ms\"\nrestore_time = \"2s\"\n"},
  };
  return *options;
}

int run_child(const char* scenario) {
  if (std::strcmp(scenario, "setup_plain") == 0) setup(true);
  if (std::strcmp(scenario, "setup") == 0) setup(false);
  if (std::strcmp(scenario, "faults") == 0) faults();
  if (std::strcmp(scenario, "rows") == 0) rows();
  if (std::strcmp(scenario, "parking") == 0) parking();
  return 0;
}

}  // namespace
}  // namespace kvshim::bench

int main(int argc, char** argv) {
  using namespace kvshim::bench;
  if (is_preloaded_child()) return argc == 2 ? run_child(argv[1]) : 2;
  work_folder();
  std::vector<std::string> scenarios(argv + 1, argv + argc);
  if (scenarios.empty()) scenarios = {"setup_plain", "setup", "faults", "rows", "parking"};
  int failures = 0;
  for (const std::string& scenario : scenarios) {
    const bool plain = scenario == "setup_plain";
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
