// The life of contexts: pools, functions and streams end with theirs.
//
// The primary context has a count of users. The driver doesn't show it, so the
// shim counts retains and releases itself (from cuInit on) and takes the release
// that brings its count to zero for the one that destroys. A context that had users
// before the first one counted is never taken to end (context_life.h).
#include <array>
#include <mutex>

#include "preload/context_life.h"
#include "preload/function_info.h"
#include "preload/gate.h"
#include "preload/graph_capture.h"
#include "preload/graph_exec.h"
#include "preload/hooks.h"
#include "preload/launch.h"
#include "preload/never_destroyed.h"
#include "preload/real_driver.h"

namespace kvshim::preload {

namespace {

struct PrimaryContext {
  CUcontext context = nullptr;
  unsigned int users = 0;
  bool unseen = false;  // others may use it that are not counted
  bool kept = false;    // by the shim itself
};

constexpr std::size_t kMostDevices = 64;

struct Primaries {
  std::mutex mutex;  // never held across a driver call
  std::array<PrimaryContext, kMostDevices> of_device;

  PrimaryContext* find(CUdevice device) noexcept {
    const auto index = static_cast<std::size_t>(device);
    return device >= 0 && index < kMostDevices ? &of_device[index] : nullptr;
  }
};

NeverDestroyed<Primaries>& all_primaries() noexcept {
  static NeverDestroyed<Primaries> all;
  return all;
}
Primaries& primaries() noexcept { return *all_primaries(); }

/// The context that a release (or a reset) would destroy, null when it stays.
CUcontext would_end(CUdevice device, bool reset) noexcept {
  Primaries& all = primaries();
  const std::lock_guard lock(all.mutex);
  const PrimaryContext* primary = all.find(device);
  if (primary == nullptr) return nullptr;
  return reset || (primary->users == 1 && !primary->kept) ? primary->context : nullptr;
}

bool is_active(CUdevice device) noexcept {
  unsigned int flags = 0;
  int active = 0;
  const auto get_state = real().cuDevicePrimaryCtxGetState;
  return get_state != nullptr && get_state(device, &flags, &active) == CUDA_SUCCESS && active != 0;
}

void context_ends(CUcontext context) noexcept {
  if (context == nullptr) return;
  before_context_destroy(context);
  forget_functions();
  captures_gone(context);
}

/// Ends a context, if it does end (null: it stays), with all that is the shim's in it.
CUresult end(CUcontext context, SubmitRef submit) noexcept {
  context_ends(context);
  const CUresult result = submit();
  if (result == CUDA_SUCCESS && context != nullptr) after_context_destroy(context);
  return result;
}

CUresult release(CUdevice device, SubmitRef submit) noexcept {
  const CUcontext ending = would_end(device, false);
  context_ends(ending);
  const CUresult result = submit();
  if (result != CUDA_SUCCESS) return result;
  // Still in use after all: its work may be under way.
  if (ending != nullptr && !is_active(device)) after_context_destroy(ending);
  Primaries& all = primaries();
  const std::lock_guard lock(all.mutex);
  if (PrimaryContext* primary = all.find(device); primary != nullptr && primary->users > 0) {
    if (--primary->users == 0) primary->context = nullptr;
  }
  return result;
}

CUresult reset(CUdevice device, SubmitRef submit) noexcept {
  return end(would_end(device, true), submit);  // the users stay counted, their context is empty
}

}  // namespace

CUresult hook_cuCtxSynchronize() noexcept {
  return wait_for_context(nullptr, [] { return real().cuCtxSynchronize(); });
}

CUresult hook_cuCtxSynchronize_v2(CUcontext context) noexcept {
  return wait_for_context(context, [&] { return real().cuCtxSynchronize_v2(context); });
}

void abandon_launch_state_after_fork() noexcept {
  abandon_functions_after_fork();
  abandon_captures_after_fork();
  abandon_executables_after_fork();
  all_primaries().start_anew();
}

bool keep_if_end_is_unseen(CUdevice device, CUcontext context) noexcept {
  Primaries& all = primaries();
  {
    const std::lock_guard lock(all.mutex);
    const PrimaryContext* primary = all.find(device);
    if (primary == nullptr || primary->kept || (primary->users != 0 && !primary->unseen)) {
      return false;
    }
  }
  CUcontext retained = nullptr;
  if (!is_active(device) || real().cuDevicePrimaryCtxRetain(&retained, device) != CUDA_SUCCESS) {
    return false;
  }
  if (retained != context) {  // a context of the program's own: its destruction is seen
    real().cuDevicePrimaryCtxRelease_v2(device);
    return false;
  }
  const std::lock_guard lock(all.mutex);
  PrimaryContext* primary = all.find(device);
  primary->context = context;
  primary->kept = true;
  return true;
}

CUresult hook_cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) noexcept {
  Primaries& all = primaries();
  bool first = false;
  {
    const std::lock_guard lock(all.mutex);
    const PrimaryContext* primary = all.find(device);
    first = primary != nullptr && primary->users == 0;
  }
  const bool unseen = first && is_active(device);
  const CUresult result = real().cuDevicePrimaryCtxRetain(context, device);
  if (result != CUDA_SUCCESS || context == nullptr) return result;
  const std::lock_guard lock(all.mutex);
  if (PrimaryContext* primary = all.find(device)) {
    primary->context = *context;
    if (primary->users == 0) primary->unseen = unseen;
    ++primary->users;
  }
  return result;
}

CUresult hook_cuDevicePrimaryCtxRelease(CUdevice device) noexcept {
  return release(device, [&] { return real().cuDevicePrimaryCtxRelease(device); });
}

CUresult hook_cuDevicePrimaryCtxRelease_v2(CUdevice device) noexcept {
  return release(device, [&] { return real().cuDevicePrimaryCtxRelease_v2(device); });
}

CUresult hook_cuDevicePrimaryCtxReset(CUdevice device) noexcept {
  return reset(device, [&] { return real().cuDevicePrimaryCtxReset(device); });
}

CUresult hook_cuDevicePrimaryCtxReset_v2(CUdevice device) noexcept {
  return reset(device, [&] { return real().cuDevicePrimaryCtxReset_v2(device); });
}

CUresult hook_cuCtxCreate(CUcontext* context, unsigned int flags, CUdevice device) noexcept {
  return real().cuCtxCreate(context, flags, device);
}

CUresult hook_cuCtxCreate_v2(CUcontext* context, unsigned int flags, CUdevice device) noexcept {
  return real().cuCtxCreate_v2(context, flags, device);
}

CUresult hook_cuCtxCreate_v3(CUcontext* context, CUexecAffinityParam* params, int count,
                             unsigned int flags, CUdevice device) noexcept {
  return real().cuCtxCreate_v3(context, params, count, flags, device);
}

CUresult hook_cuCtxCreate_v4(CUcontext* context, CUctxCreateParams* params, unsigned int flags,
                             CUdevice device) noexcept {
  return real().cuCtxCreate_v4(context, params, flags, device);
}

CUresult hook_cuCtxDestroy(CUcontext context) noexcept {
  return end(context, [&] { return real().cuCtxDestroy(context); });
}

CUresult hook_cuCtxDestroy_v2(CUcontext context) noexcept {
  return end(context, [&] { return real().cuCtxDestroy_v2(context); });
}

// Contexts attached more than once (cuCtxAttach, deprecated since CUDA 4) would
// live on: their pools then count as lost, which is loud and never wrong.
CUresult hook_cuCtxDetach(CUcontext context) noexcept {
  context_ends(context);
  return real().cuCtxDetach(context);
}

}  // namespace kvshim::preload
