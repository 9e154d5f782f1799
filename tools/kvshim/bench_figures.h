// What the bench measures, and what it means for kvshim's defaults.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace kvshim::cli {

/// Medians in microseconds of the calls for one size of handle.
struct HandleFigures {
  std::uint64_t bytes = 0;
  double create = 0, map = 0, access = 0, unmap = 0, release = 0;
  double swap = 0;  // unmap, map another handle, set access
  double commit() const { return create + map + access; }
  double give_back() const { return unmap + release; }
};

struct BenchFigures {
  std::string gpu;
  int driver = 0;                                  // 13000 for 13.0
  std::vector<HandleFigures> handles;              // by size, ascending
  double plain_alloc_gib = 0, plain_free_gib = 0;  // microseconds for cuMemAlloc of 1 GiB
  double host_handle_gib = 0;                      // microseconds to make 1 GiB of host handles
  double to_host = 0, from_host = 0;               // bytes a second, through mapped host handles
};

/// Measures on the GPU with that index (as CUDA counts). Throws Failure(kNoGpu).
BenchFigures measure(int gpu, bool quick);

/// One line for each default that the figures speak about: what it is, what the
/// figures say, and what to set where another value fits better. Pure.
std::vector<std::string> advice_of(const BenchFigures& figures);

}  // namespace kvshim::cli
