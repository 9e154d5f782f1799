// Driver calls of the device benchmark: pools, the writer kernel of vLLM's name,
// and times of what the host sees.
#pragma once

#include <cuda.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace kvshim::bench {

inline constexpr std::size_t kGranuleBytes = std::size_t{2} << 20;
inline constexpr std::size_t kMebibyte = std::size_t{1} << 20;

/// Ends the process with 1 and a line that names the call.
void check(CUresult result, const char* call);
#define KVSHIM_BENCH_CHECK(call) ::kvshim::bench::check(call, #call)

class Timer {
 public:
  double microseconds() const {
    return std::chrono::duration<double, std::micro>(Clock::now() - begin_).count();
  }
  double milliseconds() const { return microseconds() / 1000; }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point begin_ = Clock::now();
};

/// The first GPU with its primary context current, a stream and the writer.
class Session {
 public:
  Session();
  CUstream stream() const { return stream_; }
  bool on_simulator() const { return simulator_; }
  const std::string& gpu() const { return gpu_; }
  std::size_t total_bytes() const { return total_; }

  std::vector<CUdeviceptr> allocate(std::size_t count, std::size_t bytes);
  void wait() { KVSHIM_BENCH_CHECK(cuStreamSynchronize(stream_)); }

  /// One token of the writer: into byte `offset` of the first and of the second
  /// half of a pool, as vLLM 0.22 lays keys and values out. Offsets are multiples
  /// of 1 KiB.
  void write_token(CUdeviceptr pool, std::size_t pool_bytes, std::size_t offset);
  /// The same again, to where the last token went in `pool`: the launch alone.
  void write_there_again(CUdeviceptr pool, std::size_t pool_bytes);

 private:
  CUcontext context_ = nullptr;
  CUstream stream_ = nullptr;
  CUfunction writer_ = nullptr;
  CUdeviceptr slots_ = 0, rows_ = 0;
  bool simulator_ = false;
  std::string gpu_;
  std::size_t total_ = 0;
};

double median(std::vector<double> values);
double quantile(std::vector<double> values, double q);

}  // namespace kvshim::bench
