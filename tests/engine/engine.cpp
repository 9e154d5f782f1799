// kvshim_engine: see options.cpp for what it does.
#include <algorithm>
#include <chrono>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>

#include "tests/engine/scheduler.h"
#include "tests/engine/server.h"

namespace {

using namespace kvshim::engine;  // NOLINT(google-build-using-namespace): the program's own

std::size_t free_memory() {
  std::size_t free_bytes = 0, total = 0;
  ENGINE_CALL(cuMemGetInfo, &free_bytes, &total);
  return free_bytes;
}

/// vLLM's start-up rule: the share of the whole GPU must be free, and the
/// pools take it.
std::size_t pool_bytes_by_utilization(const Options& options) {
  std::size_t free_bytes = 0, total = 0;
  ENGINE_CALL(cuMemGetInfo, &free_bytes, &total);
  const auto wanted = static_cast<std::size_t>(static_cast<double>(total) * options.utilization);
  if (free_bytes < wanted) {
    std::fprintf(stderr,
                 "kvshim_engine: Free memory on device (%zu MiB) is less than desired GPU memory "
                 "utilization (%zu MiB)\n",
                 free_bytes >> 20, wanted >> 20);
    std::exit(3);
  }
  const std::size_t used = total - free_bytes;
  const std::size_t left = wanted > used ? wanted - used : 0;
  return (left / options.layers) & ~((std::size_t{2} << 20) - 1);
}

Shape make_shape(const Options& options) {
  Shape shape;
  shape.layers = options.layers;
  shape.block_size = options.block_size;
  shape.heads = options.heads;
  shape.head_size = options.head_size;
  shape.pool_bytes =
      options.utilization != 0 ? pool_bytes_by_utilization(options) : options.pool_bytes;
  shape.blocks = static_cast<unsigned>(shape.pool_bytes / 2 / shape.block_bytes());
  if (options.blocks != 0) shape.blocks = std::min(shape.blocks, options.blocks);
  if (shape.blocks < 4) {
    std::fprintf(stderr, "kvshim_engine: %zu bytes are too few for a pool\n", shape.pool_bytes);
    std::exit(2);
  }
  return shape;
}

/// Lines for people, or one JSON object.
class Report {
 public:
  Report(const Options& options, const Shape& shape) : options_(options) {
    CUdevice device = 0;
    char name[128] = "";
    ENGINE_CALL(cuDeviceGet, &device, 0);
    ENGINE_CALL(cuDeviceGetName, name, sizeof name, device);
    print(options_.json ? "{\"device\":\"%s\",\"layers\":%u,\"pool_bytes\":%zu,\"blocks\":%u"
                        : "device %s, %u layers, pool %zu bytes, %u blocks\n",
          name, shape.layers, shape.pool_bytes, shape.blocks);
    memory(options_.json ? ",\"free_after_load\":%zu" : "free after load %zu\n");
    if (options_.json) print(",\"bursts\":[");
  }

  void burst(unsigned index, const BurstResult& result, double seconds) {
    total_ = (total_ ^ result.digest) * 0x100000001b3ULL;
    const double rate = static_cast<double>(result.generated) / seconds;
    if (options_.json && index != 0) print(",");
    print(options_.json ? "{\"burst\":%u,\"digest\":\"%016" PRIx64 "\",\"tokens\":%" PRIu64
                          ",\"prompt_tokens\":%" PRIu64 ",\"prefix_hits\":%" PRIu64
                          ",\"seconds\":%.4f,\"tokens_per_second\":%.1f"
                        : "burst %u digest %016" PRIx64 " tokens %" PRIu64 " prompt %" PRIu64
                          " hits %" PRIu64 " seconds %.4f tokens/s %.1f\n",
          index, result.digest, result.generated, result.prompt_tokens, result.prefix_hits, seconds,
          rate);
    memory(options_.json ? ",\"free_after_burst\":%zu" : "free after burst %zu\n");
  }

  void idle() {
    memory(options_.json ? ",\"free_after_idle\":%zu" : "free after idle %zu\n");
    if (options_.json) print("}");
  }

  void end() {
    print(options_.json ? "],\"digest\":\"%016" PRIx64 "\"}\n" : "digest %016" PRIx64 "\n", total_);
  }

 private:
  void print(const char* text) {
    std::fputs(text, stdout);
    std::fflush(stdout);
  }
  template <class... Args>
  requires(sizeof...(Args) != 0) void print(const char* format, Args... args) {
    std::printf(format, args...);  // NOLINT(clang-diagnostic-format-nonliteral)
    std::fflush(stdout);
  }
  void memory(const char* format) {
    if (options_.memory) print(format, free_memory());
  }

  const Options& options_;
  std::uint64_t total_ = 0xcbf29ce484222325ULL;
};

}  // namespace

int main(int argc, char** argv) {
  const Options options = read_options(argc, argv);
  reach_driver(options.entry);
  CUdevice device = 0;
  CUcontext context = nullptr;
  ENGINE_CALL(cuInit, 0);
  ENGINE_CALL(cuDeviceGet, &device, 0);
  ENGINE_CALL(cuDevicePrimaryCtxRetain, &context, device);
  ENGINE_CALL(cuCtxSetCurrent, context);
  {
    const Shape shape = make_shape(options);
    Model model(shape);
    Scheduler scheduler(model, options);
    Report report(options, shape);
    if (options.port >= 0) serve_bursts(scheduler, options.port);
    const unsigned bursts = options.port >= 0 ? 0 : options.bursts;
    for (unsigned burst = 0; burst < bursts; ++burst) {
      const auto begin = std::chrono::steady_clock::now();
      const BurstResult result = scheduler.run_burst(burst);
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
      report.burst(burst, result, took.count());
      if (options.idle_seconds > 0) {
        std::this_thread::sleep_for(std::chrono::duration<double>(options.idle_seconds));
      }
      report.idle();
    }
    if (options.port < 0) report.end();
  }
  ENGINE_CALL(cuDevicePrimaryCtxRelease, device);
  return 0;
}
