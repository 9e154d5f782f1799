// Launches, in all forms. Host functions on streams (cuLaunchHostFunc) are not
// here: they run on the CPU, which can't touch device memory.
#include <array>
#include <type_traits>

#include "preload/graph_capture.h"
#include "preload/hooks.h"
#include "preload/launch.h"
#include "preload/real_driver.h"

namespace kvshim::preload {

namespace {

using Shape = std::array<std::uint32_t, 3>;

CUresult launch(StreamRef stream, CUfunction function, const Shape& grid, const Shape& block,
                void** params, void** extra, SubmitRef submit) noexcept {
  return submit_launch(stream, function, {params, extra, grid, block}, submit);
}

// A launch that names the arena, or of which nothing is known. Apart, so that a
// launch that passes goes on to the driver by a jump: arguments that a lambda refers
// to would all be stored and read back.
template <class Launch>
[[gnu::noinline]] CUresult launch_reaching(Launch real_launch, StreamFlavor flavor, CUfunction f,
                                           const Shape& grid, const Shape& block,
                                           unsigned int shared_bytes, CUstream stream,
                                           void** params, void** extra) noexcept {
  const auto submit = [&] {
    if constexpr (std::is_invocable_v<Launch, CUfunction, unsigned, unsigned, unsigned, unsigned,
                                      unsigned, unsigned, unsigned, CUstream, void**, void**>) {
      return real_launch(f, grid[0], grid[1], grid[2], block[0], block[1], block[2], shared_bytes,
                         stream, params, extra);
    } else {
      return real_launch(f, grid[0], grid[1], grid[2], block[0], block[1], block[2], shared_bytes,
                         stream, params);
    }
  };
  return launch({stream, flavor}, f, grid, block, params, extra, submit);
}

/// A node that the device may change later is no longer covered by its guard.
void note_attributes(StreamRef stream, const CUlaunchConfig& config) noexcept {
  if (!any_capture() || config.attrs == nullptr) return;
  for (unsigned int i = 0; i < config.numAttrs; ++i) {
    const CUlaunchAttribute& attribute = config.attrs[i];
    if (attribute.id == CU_LAUNCH_ATTRIBUTE_DEVICE_UPDATABLE_KERNEL_NODE &&
        attribute.value.deviceUpdatableKernelNode.deviceUpdatable != 0) {
      capture_gets_unguarded_work(stream);
    }
  }
}

using RealLaunchEx = decltype(RealDriver::cuLaunchKernelEx);

// Attributes need nothing else. Programmatic serialization lets a kernel start
// before its predecessor in the stream ends, but not before that one's blocks
// have exited or said so, and guards say nothing before they exit.
CUresult launch_ex(StreamFlavor flavor, RealLaunchEx real_launch, const CUlaunchConfig* config,
                   CUfunction function, void** params, void** extra) noexcept {
  if (config == nullptr || launch_passes(function, params, extra)) [[likely]] {
    return real_launch(config, function, params, extra);
  }
  const auto submit = [&] { return real_launch(config, function, params, extra); };
  const StreamRef stream{config->hStream, flavor};
  note_attributes(stream, *config);
  return launch(stream, function, {config->gridDimX, config->gridDimY, config->gridDimZ},
                {config->blockDimX, config->blockDimY, config->blockDimZ}, params, extra, submit);
}

}  // namespace

CUresult hook_cuLaunchKernel(CUfunction f, unsigned int grid_x, unsigned int grid_y,
                             unsigned int grid_z, unsigned int block_x, unsigned int block_y,
                             unsigned int block_z, unsigned int shared_bytes, CUstream stream,
                             void** params, void** extra) noexcept {
  if (launch_passes(f, params, extra)) [[likely]] {
    return found_driver().cuLaunchKernel(f, grid_x, grid_y, grid_z, block_x, block_y, block_z,
                                         shared_bytes, stream, params, extra);
  }
  return launch_reaching(found_driver().cuLaunchKernel, StreamFlavor::kLegacy, f,
                         {grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared_bytes,
                         stream, params, extra);
}

CUresult hook_cuLaunchKernel_ptsz(CUfunction f, unsigned int grid_x, unsigned int grid_y,
                                  unsigned int grid_z, unsigned int block_x, unsigned int block_y,
                                  unsigned int block_z, unsigned int shared_bytes, CUstream stream,
                                  void** params, void** extra) noexcept {
  if (launch_passes(f, params, extra)) [[likely]] {
    return found_driver().cuLaunchKernel_ptsz(f, grid_x, grid_y, grid_z, block_x, block_y, block_z,
                                              shared_bytes, stream, params, extra);
  }
  return launch_reaching(found_driver().cuLaunchKernel_ptsz, StreamFlavor::kPerThread, f,
                         {grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared_bytes,
                         stream, params, extra);
}

CUresult hook_cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction f, void** params,
                               void** extra) noexcept {
  return launch_ex(StreamFlavor::kLegacy, real().cuLaunchKernelEx, config, f, params, extra);
}

CUresult hook_cuLaunchKernelEx_ptsz(const CUlaunchConfig* config, CUfunction f, void** params,
                                    void** extra) noexcept {
  return launch_ex(StreamFlavor::kPerThread, real().cuLaunchKernelEx_ptsz, config, f, params,
                   extra);
}

CUresult hook_cuLaunchCooperativeKernel(CUfunction f, unsigned int grid_x, unsigned int grid_y,
                                        unsigned int grid_z, unsigned int block_x,
                                        unsigned int block_y, unsigned int block_z,
                                        unsigned int shared_bytes, CUstream stream,
                                        void** params) noexcept {
  if (launch_passes(f, params, nullptr)) [[likely]] {
    return found_driver().cuLaunchCooperativeKernel(f, grid_x, grid_y, grid_z, block_x, block_y,
                                                    block_z, shared_bytes, stream, params);
  }
  return launch_reaching(found_driver().cuLaunchCooperativeKernel, StreamFlavor::kLegacy, f,
                         {grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared_bytes,
                         stream, params, nullptr);
}

CUresult hook_cuLaunchCooperativeKernel_ptsz(CUfunction f, unsigned int grid_x, unsigned int grid_y,
                                             unsigned int grid_z, unsigned int block_x,
                                             unsigned int block_y, unsigned int block_z,
                                             unsigned int shared_bytes, CUstream stream,
                                             void** params) noexcept {
  if (launch_passes(f, params, nullptr)) [[likely]] {
    return found_driver().cuLaunchCooperativeKernel_ptsz(
        f, grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes, stream, params);
  }
  return launch_reaching(found_driver().cuLaunchCooperativeKernel_ptsz, StreamFlavor::kPerThread, f,
                         {grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared_bytes,
                         stream, params, nullptr);
}

CUresult hook_cuLaunchCooperativeKernelMultiDevice(CUDA_LAUNCH_PARAMS* list, unsigned int count,
                                                   unsigned int flags) noexcept {
  const auto submit = [&] {
    return real().cuLaunchCooperativeKernelMultiDevice(list, count, flags);
  };
  if (list == nullptr) return submit();
  return submit_launches({list, count}, submit);
}

// The first API: parameters were set before by cuParamSet*, so a launch is taken
// to write every pool. It goes to the legacy default stream.

CUresult hook_cuLaunch(CUfunction f) noexcept {
  return submit_unseen_launch({}, "cuLaunch", [&] { return real().cuLaunch(f); });
}

CUresult hook_cuLaunchGrid(CUfunction f, int width, int height) noexcept {
  return submit_unseen_launch({}, "cuLaunchGrid",
                              [&] { return real().cuLaunchGrid(f, width, height); });
}

CUresult hook_cuLaunchGridAsync(CUfunction f, int width, int height, CUstream stream) noexcept {
  return submit_unseen_launch({stream, StreamFlavor::kLegacy}, "cuLaunchGridAsync",
                              [&] { return real().cuLaunchGridAsync(f, width, height, stream); });
}

}  // namespace kvshim::preload
