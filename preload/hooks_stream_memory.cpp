// Memory operations on streams: single words written, or read until they fit.
#include <cstddef>
#include <vector>

#include "preload/gate.h"
#include "preload/hook_boundary.h"
#include "preload/hooks.h"

namespace kvshim::preload {
namespace {

template <class Call>
CUresult word_work(StreamRef stream, CUdeviceptr address, std::size_t bytes, bool writes,
                   Call call) noexcept {
  if (!meets_arena(address, bytes)) return call();
  return at_boundary([&] {
    const Access access{address, bytes, writes};
    return run_work(stream, {&access, 1}, nullptr, [&] { return retry_over_holes(call); });
  });
}

template <class Call>
CUresult batch_work(StreamRef stream, unsigned int count,
                    const CUstreamBatchMemOpParams* operations, Call call) noexcept {
  if (operations == nullptr || gate_detail::arena_bytes == 0) return call();
  return at_boundary([&] {
    std::vector<Access> accesses;
    for (unsigned int i = 0; i < count; ++i) {
      const CUstreamBatchMemOpParams& operation = operations[i];
      Access access;
      switch (operation.operation) {
        case CU_STREAM_MEM_OP_WAIT_VALUE_32:
          access = {operation.waitValue.address, 4, false};
          break;
        case CU_STREAM_MEM_OP_WAIT_VALUE_64:
          access = {operation.waitValue.address, 8, false};
          break;
        case CU_STREAM_MEM_OP_WRITE_VALUE_32:
          access = {operation.writeValue.address, 4, true};
          break;
        case CU_STREAM_MEM_OP_WRITE_VALUE_64:
          access = {operation.writeValue.address, 8, true};
          break;
        default:  // barriers and flushes name no memory
          continue;
      }
      if (meets_arena(access.address, access.bytes)) accesses.push_back(access);
    }
    if (accesses.empty()) return call();
    return run_work(stream, accesses, nullptr, [&] { return retry_over_holes(call); });
  });
}

}  // namespace

#define KVSHIM_WORD_HOOK(name, Value, bytes, writes, flavor)                      \
  CUresult hook_##name(CUstream stream, CUdeviceptr address, Value value,         \
                       unsigned int flags) noexcept {                             \
    return word_work({stream, StreamFlavor::flavor}, address, bytes, writes,      \
                     [&] { return real().name(stream, address, value, flags); }); \
  }
#define KVSHIM_WORD_HOOKS(base, Value, bytes, writes)             \
  KVSHIM_WORD_HOOK(base, Value, bytes, writes, kLegacy)           \
  KVSHIM_WORD_HOOK(base##_ptsz, Value, bytes, writes, kPerThread) \
  KVSHIM_WORD_HOOK(base##_v2, Value, bytes, writes, kLegacy)      \
  KVSHIM_WORD_HOOK(base##_v2_ptsz, Value, bytes, writes, kPerThread)

KVSHIM_WORD_HOOKS(cuStreamWriteValue32, cuuint32_t, 4, true)
KVSHIM_WORD_HOOKS(cuStreamWriteValue64, cuuint64_t, 8, true)
KVSHIM_WORD_HOOKS(cuStreamWaitValue32, cuuint32_t, 4, false)
KVSHIM_WORD_HOOKS(cuStreamWaitValue64, cuuint64_t, 8, false)

#define KVSHIM_BATCH_HOOK(name, flavor)                                                           \
  CUresult hook_##name(CUstream stream, unsigned int count, CUstreamBatchMemOpParams* operations, \
                       unsigned int flags) noexcept {                                             \
    return batch_work({stream, StreamFlavor::flavor}, count, operations,                          \
                      [&] { return real().name(stream, count, operations, flags); });             \
  }

KVSHIM_BATCH_HOOK(cuStreamBatchMemOp, kLegacy)
KVSHIM_BATCH_HOOK(cuStreamBatchMemOp_ptsz, kPerThread)
KVSHIM_BATCH_HOOK(cuStreamBatchMemOp_v2, kLegacy)
KVSHIM_BATCH_HOOK(cuStreamBatchMemOp_v2_ptsz, kPerThread)

}  // namespace kvshim::preload
