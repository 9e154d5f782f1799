#include "tests/engine/options.h"

#include <getopt.h>

#include <cstdio>
#include <cstdlib>

namespace kvshim::engine {
namespace {

constexpr char kHelp[] =
    R"(kvshim_engine: a small LLM engine that speaks only the CUDA driver API.
Its outputs are whole numbers and the same on every device.

  --layers N         layers, a pool each (4)
  --pool-size BYTES  of a layer's pool, e.g. 64MiB (64MiB)
  --utilization F    instead: pools take this share of the GPU's memory (vLLM's
                     --gpu-memory-utilization); ends with 3 when that is not free
  --blocks N         use at most N blocks of a pool
  --block-size N     tokens a block (16)
  --heads N, --head-size N   KV heads (4) and elements of a head (64), 2 bytes each
  --bursts N         bursts of requests (3)
  --requests N       requests a burst (4)
  --prompt N         tokens of a prompt (40)
  --tokens N         tokens generated for a request (16)
  --idle SECONDS     pause after each burst (0)
  --step SECONDS     a step takes at least so long (0)
  --serve PORT       run no bursts but those that a client of 127.0.0.1:PORT asks for
                     (0: any port); see server.h for the lines
  --graphs           decode steps are CUDA graphs, captured once a batch size
  --prefix           prompts come again: blocks of earlier bursts are read
  --recompute        with --prefix: blocks are not shared (the digests stay the same)
  --order fifo|lifo  which free block is used next (fifo)
  --unknown          a kernel that no profile knows writes the tail of a pool
  --streams 1|2      requests run on that many streams at once (1)
  --entry linked|dlsym|getproc   how the driver is reached (linked)
  --seed N           (1)
  --memory           print free memory after load, bursts and pauses
  --json             one JSON object instead of lines
)";

[[noreturn]] void mistake(const char* option, const char* value) {
  std::fprintf(stderr, "kvshim_engine: --%s: '%s' makes no sense\n", option, value);
  std::exit(2);
}

double number(const char* option, const char* text, double least) {
  char* end = nullptr;
  const double value = std::strtod(text, &end);
  if (end == text || *end != '\0' || value < least) mistake(option, text);
  return value;
}

unsigned count(const char* option, const char* text, unsigned least) {
  return static_cast<unsigned>(number(option, text, least));
}

}  // namespace

bool parse_bytes(const std::string& text, std::size_t* bytes) {
  char* end = nullptr;
  const unsigned long long value = std::strtoull(text.c_str(), &end, 10);
  if (end == text.c_str()) return false;
  const std::string unit = end;
  unsigned shift = 0;
  if (unit == "KiB") shift = 10;
  if (unit == "MiB") shift = 20;
  if (unit == "GiB") shift = 30;
  if (shift == 0 && !unit.empty()) return false;
  *bytes = static_cast<std::size_t>(value) << shift;
  return *bytes != 0;
}

Options read_options(int argc, char** argv) {
  static const option kOptions[] = {
      {"layers", 1, nullptr, 0},    {"pool-size", 1, nullptr, 0},  {"utilization", 1, nullptr, 0},
      {"blocks", 1, nullptr, 0},    {"block-size", 1, nullptr, 0}, {"heads", 1, nullptr, 0},
      {"head-size", 1, nullptr, 0}, {"bursts", 1, nullptr, 0},     {"requests", 1, nullptr, 0},
      {"prompt", 1, nullptr, 0},    {"tokens", 1, nullptr, 0},     {"idle", 1, nullptr, 0},
      {"graphs", 0, nullptr, 0},    {"prefix", 0, nullptr, 0},     {"recompute", 0, nullptr, 0},
      {"order", 1, nullptr, 0},     {"unknown", 0, nullptr, 0},    {"streams", 1, nullptr, 0},
      {"entry", 1, nullptr, 0},     {"seed", 1, nullptr, 0},       {"memory", 0, nullptr, 0},
      {"json", 0, nullptr, 0},      {"serve", 1, nullptr, 0},      {"help", 0, nullptr, 0},
      {"step", 1, nullptr, 0},      {nullptr, 0, nullptr, 0}};
  Options options;
  int index = 0;
  for (int got = 0; (got = getopt_long(argc, argv, "", kOptions, &index)) != -1;) {
    if (got != 0) std::exit(2);
    const std::string name = kOptions[index].name;
    const char* value = optarg;
    if (name == "layers") options.layers = count("layers", value, 1);
    if (name == "pool-size" && !parse_bytes(value, &options.pool_bytes))
      mistake("pool-size", value);
    if (name == "utilization") options.utilization = number("utilization", value, 0.01);
    if (name == "blocks") options.blocks = count("blocks", value, 4);
    if (name == "block-size") options.block_size = count("block-size", value, 1);
    if (name == "heads") options.heads = count("heads", value, 1);
    if (name == "head-size") options.head_size = count("head-size", value, 4) & ~3u;
    if (name == "bursts") options.bursts = count("bursts", value, 1);
    if (name == "requests") options.requests = count("requests", value, 1);
    if (name == "prompt") options.prompt = count("prompt", value, 1);
    if (name == "tokens") options.tokens = count("tokens", value, 1);
    if (name == "idle") options.idle_seconds = number("idle", value, 0);
    if (name == "step") options.step_seconds = number("step", value, 0);
    if (name == "serve") {
      options.port = static_cast<int>(count("serve", value, 0));
      if (options.port > 65535) mistake("serve", value);
    }
    if (name == "graphs") options.graphs = true;
    if (name == "prefix") options.prefix = true;
    if (name == "recompute") options.recompute = true;
    if (name == "unknown") options.unknown = true;
    if (name == "memory") options.memory = true;
    if (name == "json") options.json = true;
    if (name == "seed") options.seed = static_cast<std::uint64_t>(number("seed", value, 0));
    if (name == "streams") {
      options.streams = count("streams", value, 1);
      if (options.streams > 2) mistake("streams", value);
    }
    if (name == "order") {
      const std::string order = value;
      if (order != "fifo" && order != "lifo") mistake("order", value);
      options.newest_first = order == "lifo";
    }
    if (name == "entry") {
      const std::string way = value;
      if (way == "linked") {
        options.entry = EntryWay::kLinked;
      } else if (way == "dlsym") {
        options.entry = EntryWay::kDlsym;
      } else if (way == "getproc") {
        options.entry = EntryWay::kGetProcAddress;
      } else {
        mistake("entry", value);
      }
    }
    if (name == "help") {
      std::fputs(kHelp, stdout);
      std::exit(0);
    }
  }
  if (optind != argc) mistake("", argv[optind]);
  return options;
}

}  // namespace kvshim::engine
