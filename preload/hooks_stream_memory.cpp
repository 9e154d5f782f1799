// Memory operations on streams: single words written, or read until they fit.
#include <algorithm>
#include <cstddef>
#include <vector>

#include "preload/gate.h"
#include "preload/hook_boundary.h"
#include "preload/hooks.h"

namespace kvshim::preload {
namespace {

// What waits is no pool work: who writes the awaited word may have to wait for all pool
// work before, and so for it. What it names of pools stays present instead, so that no
// swap has to be kept apart from it.
CUresult wait_work(StreamRef stream, const std::vector<Access>& in_pools, SubmitRef call) {
  for (const Access& access : in_pools) {
    const CUresult result = escape(stream, access.address, "a stream waits for a word in memory");
    if (result != CUDA_SUCCESS) return result;
  }
  before_wait(stream);
  return retry_while_absent(in_pools, call);
}

template <class Call>
CUresult write_word(StreamRef stream, CUdeviceptr address, std::size_t bytes, Call call) noexcept {
  if (!meets_arena(address, bytes)) return call();
  return at_boundary([&] {
    const Access access{address, bytes, true};
    return run_work(stream, {&access, 1}, nullptr,
                    [&] { return retry_over_holes(call, WhileAbsent::kPerhaps); });
  });
}

template <class Call>
CUresult await_word(StreamRef stream, CUdeviceptr address, std::size_t bytes, Call call) noexcept {
  if (!meets_arena(address, bytes)) {
    before_wait(stream);
    return call();
  }
  return at_boundary([&] { return wait_work(stream, {{address, bytes, false}}, call); });
}

template <class Call>
CUresult batch_work(StreamRef stream, unsigned int count,
                    const CUstreamBatchMemOpParams* operations, Call call) noexcept {
  if (operations == nullptr || gate_detail::arena_bytes == 0) return call();
  return at_boundary([&] {
    std::vector<Access> accesses;
    bool waits = false;
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
      waits = waits || !access.writes;
      if (meets_arena(access.address, access.bytes)) accesses.push_back(access);
    }
    if (waits) return wait_work(stream, accesses, call);
    if (accesses.empty()) return call();
    return run_work(stream, accesses, nullptr,
                    [&] { return retry_over_holes(call, WhileAbsent::kPerhaps); });
  });
}

}  // namespace

#define KVSHIM_WORD_HOOK(name, work, Value, bytes, flavor)                   \
  CUresult hook_##name(CUstream stream, CUdeviceptr address, Value value,    \
                       unsigned int flags) noexcept {                        \
    return work({stream, StreamFlavor::flavor}, address, bytes,              \
                [&] { return real().name(stream, address, value, flags); }); \
  }
#define KVSHIM_WORD_HOOKS(base, work, Value, bytes)             \
  KVSHIM_WORD_HOOK(base, work, Value, bytes, kLegacy)           \
  KVSHIM_WORD_HOOK(base##_ptsz, work, Value, bytes, kPerThread) \
  KVSHIM_WORD_HOOK(base##_v2, work, Value, bytes, kLegacy)      \
  KVSHIM_WORD_HOOK(base##_v2_ptsz, work, Value, bytes, kPerThread)

KVSHIM_WORD_HOOKS(cuStreamWriteValue32, write_word, cuuint32_t, 4)
KVSHIM_WORD_HOOKS(cuStreamWriteValue64, write_word, cuuint64_t, 8)
KVSHIM_WORD_HOOKS(cuStreamWaitValue32, await_word, cuuint32_t, 4)
KVSHIM_WORD_HOOKS(cuStreamWaitValue64, await_word, cuuint64_t, 8)

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
