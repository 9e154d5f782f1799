// How much memory the simulated GPU has left. With KVSHIM_SIM_GPU=NAME all
// processes that name it share one GPU: a small file in /dev/shm holds a
// record per process. The record counts only while its owner holds a lock
// that the kernel drops at its death, so a killed process gives back all.
#pragma once

#include <cstddef>

namespace kvshim::simulator {

class GpuMemory {
 public:
  static GpuMemory& instance();

  /// Takes `bytes`; false when that much isn't left. Thread-safe, and atomic
  /// among the processes of the GPU.
  bool take(std::size_t bytes);
  void give_back(std::size_t bytes);

  std::size_t total() const { return total_; }
  std::size_t free_bytes();
  std::size_t used_here() const;

 private:
  struct Shared;
  GpuMemory();
  std::size_t used_by_living(Shared& shared, std::size_t* others) const;

  std::size_t total_ = 0;
  Shared* shared_ = nullptr;
  int fd_ = -1;
  std::size_t slot_ = 0;
};

}  // namespace kvshim::simulator
