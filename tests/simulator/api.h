// The driver's entry points as the simulator implements them: one function of
// the official name and type in namespace api for each row of
// entry_points.def. The exported symbols (exports.cpp) count the call, inject
// failures and check the state first, then call these.
#pragma once

// Makes cuda.h declare every version of every entry point under its exported
// name (cuMemAlloc_v2, cuMemcpyHtoD_v2_ptds), without renaming macros.
#define __CUDA_API_VERSION_INTERNAL  // NOLINT(bugprone-reserved-identifier): cuda.h's own switch
#include <cuda.h>

#include <cstdint>

namespace kvshim::simulator {

/// What must hold before an entry point is carried out. Each includes those before it.
enum class Needs : std::uint8_t {
  kNothing,  // works before cuInit
  kInit,     // cuInit succeeded in this process (a forked child's parent doesn't count)
  kContext,  // the thread has a current context
  kWork,     // and the context has no sticky error
};

/// What a stream handle of 0 means for the call being carried out by this
/// thread: set by the exported symbol, read by find_stream().
enum class StreamFlavor : std::uint8_t { kLegacy, kPerThread };
extern thread_local StreamFlavor call_flavor;

namespace api {
// NOLINTBEGIN(bugprone-macro-parentheses): declarations
#define SIM_ENTRY(name, version, needs) decltype(::name) name;
#define SIM_STREAM_ENTRY(name, version, suffix, thread_version, needs) decltype(::name) name;
#define SIM_ABSENT(name, version)
#include "tests/simulator/entry_points.def"
// NOLINTEND(bugprone-macro-parentheses)
}  // namespace api

}  // namespace kvshim::simulator
