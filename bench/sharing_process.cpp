// One of several processes that share a GPU, told by its standard input what to do;
// scripts/gpu_sharing plays the others against it and measures. One command a line,
// one line of JSON as its answer:
//
//   allocate COUNT BYTES      pools
//   fill VALUE FIRST COUNT    all bytes of some pools, one after the other; "ms" till all is there
//   check VALUE FIRST COUNT   "wrong": how many pools hold another byte at their end or at one
//                             of the places, 32 MiB from each other, where a page may begin
//   memory                    "free", "total" as the driver says them, in bytes
//   end
#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "bench/device_work.h"

namespace kvshim::bench {
namespace {

class Process {
 public:
  bool obey(const std::string& line) {
    std::istringstream words(line);
    std::string command;
    words >> command;
    if (command == "allocate") {
      std::size_t count = 0;
      words >> count >> bytes_;
      const Timer timer;
      for (const CUdeviceptr pool : session_.allocate(count, bytes_)) pools_.push_back(pool);
      std::printf("{\"ms\": %.3f}\n", timer.milliseconds());
    } else if (command == "fill" || command == "check") {
      unsigned value = 0;
      std::size_t first = 0, count = 0;
      words >> value >> first >> count;
      if (!words || first > pools_.size() || count > pools_.size() - first) return false;
      command == "fill" ? fill(value, first, count) : look(value, first, count);
    } else if (command == "memory") {
      std::size_t free = 0, total = 0;
      KVSHIM_BENCH_CHECK(cuMemGetInfo(&free, &total));
      std::printf("{\"free\": %zu, \"total\": %zu, \"simulator\": %s, \"gpu\": \"%s\"}\n", free,
                  total, session_.on_simulator() ? "true" : "false", session_.gpu().c_str());
    } else {
      return false;
    }
    std::fflush(stdout);
    return true;
  }

 private:
  void fill(unsigned value, std::size_t first, std::size_t count) {
    const Timer timer;
    for (std::size_t i = first; i < first + count; ++i) {
      KVSHIM_BENCH_CHECK(
          cuMemsetD8Async(pools_[i], static_cast<unsigned char>(value), bytes_, session_.stream()));
    }
    session_.wait();
    std::printf("{\"ms\": %.3f}\n", timer.milliseconds());
  }

  static constexpr std::size_t kLargestPage = std::size_t{32} << 20;

  static bool reads(CUdeviceptr address, unsigned value) {
    unsigned char byte = 0;
    KVSHIM_BENCH_CHECK(cuMemcpyDtoH(&byte, address, 1));
    return byte == value;
  }

  void look(unsigned value, std::size_t first, std::size_t count) {
    std::size_t wrong = 0;
    for (std::size_t i = first; i < first + count; ++i) {
      bool same = reads(pools_[i] + bytes_ - 1, value);
      for (std::size_t at = 0; at < bytes_; at += kLargestPage) {
        same = reads(pools_[i] + at, value) && same;
      }
      wrong += same ? 0 : 1;
    }
    std::printf("{\"wrong\": %zu}\n", wrong);
  }

  Session session_;
  std::vector<CUdeviceptr> pools_;
  std::size_t bytes_ = 0;
};

}  // namespace
}  // namespace kvshim::bench

int main() {
  kvshim::bench::Process process;
  std::printf("{\"pid\": %d}\n", static_cast<int>(getpid()));
  std::fflush(stdout);
  for (std::string line; std::getline(std::cin, line) && line != "end";) {
    if (process.obey(line)) continue;
    std::fprintf(stderr, "not understood: %s\n", line.c_str());
    return 2;
  }
  return 0;
}
