// Code: modules and libraries from PTX text, whose kernels are host functions
// of the same name.
#pragma once

#include <string>
#include <vector>

#include "tests/simulator/contexts.h"
#include "tests/simulator/host_kernels.h"
#include "tests/simulator/ptx.h"

namespace kvshim::simulator {

struct Module;
struct Kernel;

/// One kernel of one loaded image. Never freed: launches under way and graphs
/// may still name it; `loaded` says whether it can be launched.
struct Function {
  std::string name;
  std::vector<PtxParam> params;
  std::size_t params_bytes = 0;
  KernelCall call = nullptr;  // null: the simulator has no such host function
  Module* module = nullptr;
  Kernel* kernel = nullptr;  // when it came from a library
  bool loaded = true;
};

/// What a CUkernel names.
struct Kernel {
  Function* function = nullptr;
  CUlibrary library = nullptr;
};

/// Null when the handle is not one. cuLaunchKernel takes both kinds.
Function* find_function(CUfunction handle);
Kernel* find_kernel(CUkernel handle);

void unload_modules_of(Context* context);

}  // namespace kvshim::simulator
