#include "preload/launch.h"

#include "preload/kernel_decisions.h"

namespace kvshim::preload {

namespace {

void note_unknown(const FunctionInfo* info, const LaunchReach& reach) {
  const bool named = info != nullptr && !info->name.empty();
  note_unknown_kernel(
      named ? info->name.c_str() : "(unnamed)",
      info != nullptr ? describe_words(*info, reach.words) : "parameters can't be read",
      written_bytes(reach.accesses));
}

/// What a reader reads, if that is to be found out now.
std::optional<vmm::TableRead> wanted_read(StreamRef stream, const FunctionInfo& info,
                                          const LaunchArguments& arguments,
                                          const LaunchReach& reach) {
  // A writer comes here when it has nothing to write.
  if (info.knowledge->role == heuristics::KernelRole::kWriter) return std::nullopt;
  const PoolView* const cache = cache_of(reach);
  if (cache == nullptr) return std::nullopt;
  std::optional<vmm::TableRead> read;
  if (info.knowledge->has_table) {
    if (!wants_read(stream, *cache)) return std::nullopt;
    read = table_of(info, arguments);
  }
  if (!read) read_unseen(cache->base, is_capturing(stream));
  return read;
}

CUresult submit_reach(StreamRef stream, const FunctionInfo* info, const LaunchArguments& arguments,
                      const LaunchReach& reach, SubmitRef submit) {
  for (const PoolWord& word : reach.words) remember_argument(word.value);
  if (info != nullptr && reach.kind != LaunchReach::Kind::kNothing) {
    note_decision(*info, reach.kind);
  }
  switch (reach.kind) {
    case LaunchReach::Kind::kNothing:
      return submit();
    case LaunchReach::Kind::kReads: {
      const std::optional<vmm::TableRead> read =
          info != nullptr ? wanted_read(stream, *info, arguments, reach) : std::nullopt;
      return run_work(stream, reach.accesses, nullptr, submit, read ? &*read : nullptr);
    }
    case LaunchReach::Kind::kLinearWrite:
      return run_work(stream, reach.accesses, &reach.linear, submit);
    case LaunchReach::Kind::kFill:
      if (reach.fill.bytes == 0) return submit();
      return run_fill(stream, reach.fill.address, reach.fill.bytes, reach.fill.zero, submit);
    case LaunchReach::Kind::kUnknown:
      break;
  }
  note_unknown(info, reach);
  if (const PoolView* const cache = cache_of(reach)) {
    read_unseen(cache->base, is_capturing(stream));
  }
  return run_work(stream, reach.accesses, nullptr, submit);
}

std::vector<ListedWork> reaching_launches(std::span<const CUDA_LAUNCH_PARAMS> launches) {
  std::vector<ListedWork> all;
  for (const CUDA_LAUNCH_PARAMS& one : launches) {
    if (launch_passes(one.function, one.kernelParams, nullptr)) continue;
    const FunctionInfo* info = find_function(one.function);
    const bool readable = info != nullptr && info->layout_known;
    LaunchReach reach = readable ? reach_of(*info, {one.kernelParams,
                                                    nullptr,
                                                    {one.gridDimX, one.gridDimY, one.gridDimZ},
                                                    {one.blockDimX, one.blockDimY, one.blockDimZ}})
                                 : reach_of_everything();
    if (reach.kind == LaunchReach::Kind::kNothing) continue;
    for (const PoolWord& word : reach.words) remember_argument(word.value);
    if (readable) note_decision(*info, reach.kind);
    if (reach.kind == LaunchReach::Kind::kUnknown) note_unknown(readable ? info : nullptr, reach);
    // A fill among others is made for real: it can't be left out of the one call.
    if (reach.kind == LaunchReach::Kind::kFill) {
      reach.accesses = {{reach.fill.address, reach.fill.bytes, true}};
    }
    ListedWork work{{one.hStream, StreamFlavor::kLegacy}, std::move(reach.accesses), std::nullopt};
    if (reach.kind == LaunchReach::Kind::kLinearWrite) work.linear = reach.linear;
    all.push_back(std::move(work));
  }
  return all;
}

}  // namespace

CUresult submit_launch(StreamRef stream, CUfunction function, const LaunchArguments& arguments,
                       SubmitRef submit) noexcept {
  try {
    const FunctionInfo* info = find_function(function);
    if (info == nullptr || !info->layout_known) {
      return submit_reach(stream, nullptr, arguments, reach_of_everything(), submit);
    }
    return submit_reach(stream, info, arguments, reach_of(*info, arguments), submit);
  } catch (...) {
    return CUDA_ERROR_OUT_OF_MEMORY;  // std::bad_alloc is all that can arrive here
  }
}

CUresult submit_launches(std::span<const CUDA_LAUNCH_PARAMS> launches, SubmitRef submit) noexcept {
  if (!any_pool_ever()) return submit();
  // The launches of a list wait for each other, and so each stream for all the others.
  for (const CUDA_LAUNCH_PARAMS& one : launches) before_wait(StreamRef{one.hStream});
  try {
    const std::vector<ListedWork> reaching = reaching_launches(launches);
    return reaching.empty() ? submit() : run_list(reaching, submit);
  } catch (...) {
    return CUDA_ERROR_OUT_OF_MEMORY;
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
