// The way of one launch: pass when no word names the arena, else through the gate
// with what the kernel may do.
#pragma once

#include <cuda.h>

#include <span>

#include "preload/function_info.h"
#include "preload/gate.h"
#include "preload/root_scan.h"

namespace kvshim::preload {

/// Whether the launch reaches no pool: the hot path of every launch. Any thread,
/// no lock and no shared counter once the function was seen. `function` may be a
/// CUkernel.
[[gnu::always_inline]] inline bool launch_passes(CUfunction function, void* const* params,
                                                 void* const* extra) noexcept {
  if (!any_pool_ever()) return true;
  const FunctionInfo* info = find_function(function);
  if (info == nullptr) return function == nullptr;  // the driver refuses null
  return info->layout_known && !names_arena(*info, params, extra);
}

/// Submits a launch that may reach pools: `submit` makes the real call.
/// REQUIRES !launch_passes(...), though it is merely slower otherwise.
CUresult submit_launch(StreamRef stream, CUfunction function, const LaunchArguments& arguments,
                       SubmitRef submit) noexcept;

/// Submits a list of launches that one real call makes, each into its own stream.
CUresult submit_launches(std::span<const CUDA_LAUNCH_PARAMS> launches, SubmitRef submit) noexcept;

/// Submits work whose parameters can't be seen: it may write every pool. `name`
/// is for the log.
CUresult submit_unseen_launch(StreamRef stream, const char* name, SubmitRef submit) noexcept;

/// In a forked child: functions, captures, executables and contexts were the
/// parent's. Takes no lock that another thread could have held.
void abandon_launch_state_after_fork() noexcept;

}  // namespace kvshim::preload
