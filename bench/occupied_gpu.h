// Another process that occupies the GPU.
#pragma once

#include <cuda.h>
#include <sys/types.h>

namespace kvshim::bench {

struct MappingDevice;

/// The module of bench_kernels.cu in the current context. Where the simulator is loaded it is
/// told what the kernels do.
CUmodule load_bench_kernels();

/// What the other process does all the time.
struct Occupation {
  const char* name;  // also its first argument
};
inline constexpr Occupation kOccupations[] = {
    {"nothing"},          // there is no other process
    {"spinning kernel"},  // of one block
    {"sleeping kernel"},  // the same, but between its looks it sleeps 0.1 ms
    {"waiting stream"},   // cuStreamWaitValue32, and a kernel behind it
};

/// A child process that occupies the GPU from construction to destruction. This program must
/// pass its arguments to occupy_if_asked() first.
class OccupiedGpu {
 public:
  explicit OccupiedGpu(const Occupation& how);
  ~OccupiedGpu();
  OccupiedGpu(const OccupiedGpu&) = delete;
  OccupiedGpu& operator=(const OccupiedGpu&) = delete;

 private:
  pid_t child_ = 0;
  int its_input_ = -1;
};

/// In the child: occupies the GPU until its standard input ends, and ends the process. Comes
/// back in any other process.
void occupy_if_asked(int count, char** arguments);

}  // namespace kvshim::bench
