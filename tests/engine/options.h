// The engine's command line.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace kvshim::engine {

enum class EntryWay : std::uint8_t {
  kLinked,         // symbols of libcuda.so.1, bound by the loader
  kDlsym,          // dlopen and dlsym
  kGetProcAddress  // dlsym of cuGetProcAddress_v2 alone, everything else through it
};

struct Options {
  unsigned layers = 4;
  unsigned block_size = 16;  // tokens a block
  unsigned heads = 4;
  unsigned head_size = 64;             // elements of two bytes
  std::size_t pool_bytes = 64u << 20;  // a layer
  double utilization = 0;              // of free memory; instead of pool_bytes when not 0
  unsigned blocks = 0;                 // at most; 0: what the pool holds
  unsigned bursts = 3;
  unsigned requests = 4;  // a burst
  unsigned prompt = 40;   // tokens of a prompt
  unsigned tokens = 16;   // tokens generated for a request
  double idle_seconds = 0;
  double step_seconds = 0;  // each step takes at least so long, as a large model's do
  int port = -1;            // serve bursts there instead of running them; 0: any
  std::uint64_t seed = 1;
  EntryWay entry = EntryWay::kLinked;
  bool graphs = false;
  bool prefix = false;
  bool recompute = false;     // prompts as with prefix, but nothing is shared
  bool newest_first = false;  // free blocks: last in, first out
  bool unknown = false;
  unsigned streams = 1;  // 1 or 2
  bool memory = false;
  bool json = false;
};

/// Ends the process after --help (0) or a mistake (2).
Options read_options(int argc, char** argv);

/// "64MiB", "1GiB", "4096"; false when it is none.
bool parse_bytes(const std::string& text, std::size_t* bytes);

}  // namespace kvshim::engine
