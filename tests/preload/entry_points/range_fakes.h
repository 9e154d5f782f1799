// A gate and a driver that only note what they are asked, for the hooks on ranges.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "preload/gate.h"
#include "preload/hooks.h"

namespace kvshim::preload::fakes {

// One pool in an arena, at addresses that nothing maps.
inline constexpr std::uint64_t kArena = 0x600000200000;
inline constexpr std::size_t kArenaBytes = std::size_t{1} << 40;
inline constexpr std::uint64_t kPool = kArena + (std::uint64_t{6} << 20);
inline constexpr std::size_t kPoolBytes = std::size_t{64} << 20;
inline constexpr std::size_t kToldBytes = kPoolBytes - 4096;  // as it was asked for
inline constexpr std::uint64_t kOther = 0x7f0000000000;       // device memory of no pool
inline const CUstream kStream = reinterpret_cast<CUstream>(0x77);
inline const CUcontext kContext = reinterpret_cast<CUcontext>(0x1234);

/// A call of the real driver: its name, its arguments as words, and whether it
/// was made inside the gate's submission and inside retry_over_holes.
struct DriverCall {
  std::string name;
  std::vector<std::uint64_t> arguments;
  bool submitted = false;
  bool retried = false;
};

struct Work {
  CUstream stream = nullptr;
  StreamFlavor flavor = StreamFlavor::kLegacy;
  std::vector<Access> accesses;
  bool fill = false;
  bool zero = false;
};

struct Notes {
  std::vector<DriverCall> calls;
  std::vector<Work> work;
  std::vector<std::pair<const void*, std::size_t>> payloads;
  std::vector<std::uint64_t> remembered;
  std::vector<Access> pinned;
  std::vector<std::uint64_t> escaped;
  std::vector<Access> waited_for;  // by retry_while_absent()
  std::vector<PinId> unpinned;
  std::vector<std::string> log;
  std::vector<CUDA_MEMCPY2D> copies_2d;
  std::vector<CUDA_MEMCPY3D> copies_3d;
  std::vector<std::uint64_t> device_memory;  // addresses the driver knows, besides kOther
  std::vector<std::uint64_t> host_memory;    // the same, in host memory
  std::vector<CUcontext> peers;              // told to peer_access_enabled()
  CUresult driver_result = CUDA_SUCCESS;
  bool drop_zero_fills = false;

  std::vector<std::string> names() const {
    std::vector<std::string> all;
    for (const DriverCall& call : calls) {
      if (call.name != "cuPointerGetAttribute") all.push_back(call.name);
    }
    return all;
  }
};

/// The notes since reset().
Notes& notes();
/// Forgets the notes; `pools`: whether the arena and its pool exist.
void reset(bool pools = true);

}  // namespace kvshim::preload::fakes
