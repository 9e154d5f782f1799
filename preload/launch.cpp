#include "preload/launch.h"

namespace kvshim::preload {

namespace {

CUresult submit_reach(StreamRef stream, const FunctionInfo* info, const LaunchReach& reach,
                      SubmitRef submit) {
  for (const PoolWord& word : reach.words) remember_argument(word.value);
  switch (reach.kind) {
    case LaunchReach::Kind::kNothing:
      return submit();
    case LaunchReach::Kind::kReads:
      return run_work(stream, reach.accesses, nullptr, submit);
    case LaunchReach::Kind::kLinearWrite:
      return run_work(stream, reach.accesses, &reach.linear, submit);
    case LaunchReach::Kind::kFill:
      if (reach.fill.bytes == 0) return submit();
      return run_fill(stream, reach.fill.address, reach.fill.bytes, reach.fill.zero, submit);
    case LaunchReach::Kind::kUnknown:
      break;
  }
  const bool named = info != nullptr && !info->name.empty();
  note_unknown_kernel(
      named ? info->name.c_str() : "(unnamed)",
      info != nullptr ? describe_words(*info, reach.words) : "parameters can't be read",
      written_bytes(reach.accesses));
  return run_work(stream, reach.accesses, nullptr, submit);
}

}  // namespace

CUresult submit_launch(StreamRef stream, CUfunction function, const LaunchArguments& arguments,
                       SubmitRef submit) noexcept {
  try {
    const FunctionInfo* info = find_function(function);
    if (info == nullptr || !info->layout_known) {
      return submit_reach(stream, nullptr, reach_of_everything(), submit);
    }
    return submit_reach(stream, info, reach_of(*info, arguments), submit);
  } catch (...) {
    return CUDA_ERROR_OUT_OF_MEMORY;  // std::bad_alloc is all that can arrive here
  }
}

CUresult submit_unseen_launch(StreamRef stream, const char* name, SubmitRef submit) noexcept {
  if (!any_pool_ever()) return submit();
  try {
    const LaunchReach reach = reach_of_everything();
    if (reach.kind == LaunchReach::Kind::kNothing) return submit();
    note_unknown_kernel(name, "parameters set beforehand", written_bytes(reach.accesses));
    return run_work(stream, reach.accesses, nullptr, submit);
  } catch (...) {
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
}

}  // namespace kvshim::preload
