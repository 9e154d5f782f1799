// Copies of plain ranges: host and device, device and device, unified, peer, and
// between device memory and arrays. Each hook finds what is touched; a copy that
// meets no pool is forwarded as it came.
#include <array>
#include <cstddef>
#include <cstdint>

#include "preload/gate.h"
#include "preload/hook_boundary.h"
#include "preload/hooks.h"
#include "preload/payload.h"
#include "preload/sync_memops.h"

namespace kvshim::preload {
namespace {

// The typed copies of one variant, with one shape: a stream that the synchronous
// ones don't have.
#define KVSHIM_SYNC_COPIES(Variant, flavor, suffix)                                        \
  struct Variant {                                                                         \
    static constexpr StreamFlavor kFlavor = StreamFlavor::flavor;                          \
    static constexpr bool kSynchronous = true;                                             \
    static CUresult to_device(CUdeviceptr to, const void* from, std::size_t n, CUstream) { \
      return real().cuMemcpyHtoD_v2##suffix(to, from, n);                                  \
    }                                                                                      \
    static CUresult to_host(void* to, CUdeviceptr from, std::size_t n, CUstream) {         \
      return real().cuMemcpyDtoH_v2##suffix(to, from, n);                                  \
    }                                                                                      \
    static CUresult on_device(CUdeviceptr to, CUdeviceptr from, std::size_t n, CUstream) { \
      return real().cuMemcpyDtoD_v2##suffix(to, from, n);                                  \
    }                                                                                      \
  };
#define KVSHIM_ASYNC_COPIES(Variant, flavor, suffix)                                         \
  struct Variant {                                                                           \
    static constexpr StreamFlavor kFlavor = StreamFlavor::flavor;                            \
    static constexpr bool kSynchronous = false;                                              \
    static CUresult to_device(CUdeviceptr to, const void* from, std::size_t n, CUstream s) { \
      return real().cuMemcpyHtoDAsync_v2##suffix(to, from, n, s);                            \
    }                                                                                        \
    static CUresult to_host(void* to, CUdeviceptr from, std::size_t n, CUstream s) {         \
      return real().cuMemcpyDtoHAsync_v2##suffix(to, from, n, s);                            \
    }                                                                                        \
    static CUresult on_device(CUdeviceptr to, CUdeviceptr from, std::size_t n, CUstream s) { \
      return real().cuMemcpyDtoDAsync_v2##suffix(to, from, n, s);                            \
    }                                                                                        \
  };
KVSHIM_SYNC_COPIES(SyncLegacy, kLegacy, )
KVSHIM_SYNC_COPIES(SyncPerThread, kPerThread, _ptds)
KVSHIM_ASYNC_COPIES(AsyncLegacy, kLegacy, )
KVSHIM_ASYNC_COPIES(AsyncPerThread, kPerThread, _ptsz)
#undef KVSHIM_SYNC_COPIES
#undef KVSHIM_ASYNC_COPIES

/// A copy of which at least one side is a pool, whatever the caller called the
/// sides: an address in the arena is device memory, and the copy is made in the
/// typed form. (The unified form takes an address in the middle of a swap for
/// host memory and crashes.)
template <class Variant>
CUresult copy_pool(CUstream handle, std::uint64_t to, std::uint64_t from, std::size_t bytes) {
  const StreamRef stream{handle, Variant::kFlavor};
  const bool from_device = is_device_memory(from);
  const bool to_device = is_device_memory(to);
  const std::array<Access, 2> accesses = {Access{to, bytes, true}, Access{from, bytes, false}};
  if (!from_device) search_payload(stream, reinterpret_cast<const void*>(from), bytes);
  const CUresult result = run_work(stream, accesses, nullptr, [&] {
    return retry_over_holes([&] {
      if (!from_device) {
        return Variant::to_device(to, reinterpret_cast<const void*>(from), bytes, handle);
      }
      if (!to_device) return Variant::to_host(reinterpret_cast<void*>(to), from, bytes, handle);
      return Variant::on_device(to, from, bytes, handle);
    });
  });
  return Variant::kSynchronous ? finish_sync_memop(stream, accesses, result) : result;
}

/// Every plain copy comes through here; `original` is the call as it came and
/// `host_source` says that its source may be host memory.
template <class Variant, class Original>
CUresult copy(CUstream handle, std::uint64_t to, std::uint64_t from, std::size_t bytes,
              bool host_source, Original original) noexcept {
  if (!pools_exist()) return original();
  return at_boundary([&] {
    if (meets_arena(to, bytes) || meets_arena(from, bytes)) {
      return copy_pool<Variant>(handle, to, from, bytes);
    }
    if (host_source) {
      search_payload({handle, Variant::kFlavor}, reinterpret_cast<const void*>(from), bytes);
    }
    return original();
  });
}

std::uint64_t word(const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer); }

/// A copy that is left in its form: work with one range in device memory.
template <class Original>
CUresult range_work(StreamRef stream, const Access& access, Original original) noexcept {
  if (!meets_arena(access.address, access.bytes)) return original();
  return at_boundary([&] {
    return run_work(stream, {&access, 1}, nullptr, [&] { return retry_over_holes(original); });
  });
}

/// Copies between contexts keep their form: the driver needs to be told whose
/// memory it is.
template <class Original>
CUresult peer_copy(StreamRef stream, CUdeviceptr to, CUdeviceptr from, std::size_t bytes,
                   Original original) noexcept {
  if (!meets_arena(to, bytes) && !meets_arena(from, bytes)) return original();
  return at_boundary([&] {
    const std::array<Access, 2> accesses = {Access{to, bytes, true}, Access{from, bytes, false}};
    return run_work(stream, accesses, nullptr, [&] { return retry_over_holes(original); });
  });
}

}  // namespace

#define KVSHIM_SYNC_HOOKS(Variant, suffix)                                                    \
  CUresult hook_cuMemcpyHtoD_v2##suffix(CUdeviceptr to, const void* from,                     \
                                        std::size_t n) noexcept {                             \
    return copy<Variant>(nullptr, to, word(from), n, true,                                    \
                         [&] { return real().cuMemcpyHtoD_v2##suffix(to, from, n); });        \
  }                                                                                           \
  CUresult hook_cuMemcpyDtoH_v2##suffix(void* to, CUdeviceptr from, std::size_t n) noexcept { \
    return copy<Variant>(nullptr, word(to), from, n, false,                                   \
                         [&] { return real().cuMemcpyDtoH_v2##suffix(to, from, n); });        \
  }                                                                                           \
  CUresult hook_cuMemcpyDtoD_v2##suffix(CUdeviceptr to, CUdeviceptr from,                     \
                                        std::size_t n) noexcept {                             \
    return copy<Variant>(nullptr, to, from, n, false,                                         \
                         [&] { return real().cuMemcpyDtoD_v2##suffix(to, from, n); });        \
  }                                                                                           \
  CUresult hook_cuMemcpy##suffix(CUdeviceptr to, CUdeviceptr from, std::size_t n) noexcept {  \
    return copy<Variant>(nullptr, to, from, n, true,                                          \
                         [&] { return real().cuMemcpy##suffix(to, from, n); });               \
  }                                                                                           \
  CUresult hook_cuMemcpyPeer##suffix(CUdeviceptr to, CUcontext to_context, CUdeviceptr from,  \
                                     CUcontext from_context, std::size_t n) noexcept {        \
    return peer_copy({nullptr, Variant::kFlavor}, to, from, n, [&] {                          \
      return real().cuMemcpyPeer##suffix(to, to_context, from, from_context, n);              \
    });                                                                                       \
  }                                                                                           \
  CUresult hook_cuMemcpyDtoA_v2##suffix(CUarray to, std::size_t offset, CUdeviceptr from,     \
                                        std::size_t n) noexcept {                             \
    return range_work({nullptr, Variant::kFlavor}, {from, n, false},                          \
                      [&] { return real().cuMemcpyDtoA_v2##suffix(to, offset, from, n); });   \
  }                                                                                           \
  CUresult hook_cuMemcpyAtoD_v2##suffix(CUdeviceptr to, CUarray from, std::size_t offset,     \
                                        std::size_t n) noexcept {                             \
    return range_work({nullptr, Variant::kFlavor}, {to, n, true},                             \
                      [&] { return real().cuMemcpyAtoD_v2##suffix(to, from, offset, n); });   \
  }

#define KVSHIM_ASYNC_HOOKS(Variant, suffix)                                                       \
  CUresult hook_cuMemcpyHtoDAsync_v2##suffix(CUdeviceptr to, const void* from, std::size_t n,     \
                                             CUstream s) noexcept {                               \
    return copy<Variant>(s, to, word(from), n, true,                                              \
                         [&] { return real().cuMemcpyHtoDAsync_v2##suffix(to, from, n, s); });    \
  }                                                                                               \
  CUresult hook_cuMemcpyDtoHAsync_v2##suffix(void* to, CUdeviceptr from, std::size_t n,           \
                                             CUstream s) noexcept {                               \
    return copy<Variant>(s, word(to), from, n, false,                                             \
                         [&] { return real().cuMemcpyDtoHAsync_v2##suffix(to, from, n, s); });    \
  }                                                                                               \
  CUresult hook_cuMemcpyDtoDAsync_v2##suffix(CUdeviceptr to, CUdeviceptr from, std::size_t n,     \
                                             CUstream s) noexcept {                               \
    return copy<Variant>(s, to, from, n, false,                                                   \
                         [&] { return real().cuMemcpyDtoDAsync_v2##suffix(to, from, n, s); });    \
  }                                                                                               \
  CUresult hook_cuMemcpyAsync##suffix(CUdeviceptr to, CUdeviceptr from, std::size_t n,            \
                                      CUstream s) noexcept {                                      \
    return copy<Variant>(s, to, from, n, true,                                                    \
                         [&] { return real().cuMemcpyAsync##suffix(to, from, n, s); });           \
  }                                                                                               \
  CUresult hook_cuMemcpyPeerAsync##suffix(CUdeviceptr to, CUcontext to_context, CUdeviceptr from, \
                                          CUcontext from_context, std::size_t n,                  \
                                          CUstream s) noexcept {                                  \
    return peer_copy({s, Variant::kFlavor}, to, from, n, [&] {                                    \
      return real().cuMemcpyPeerAsync##suffix(to, to_context, from, from_context, n, s);          \
    });                                                                                           \
  }

KVSHIM_SYNC_HOOKS(SyncLegacy, )
KVSHIM_SYNC_HOOKS(SyncPerThread, _ptds)
KVSHIM_ASYNC_HOOKS(AsyncLegacy, )
KVSHIM_ASYNC_HOOKS(AsyncPerThread, _ptsz)

}  // namespace kvshim::preload
