// Batches of copies, and batches of decompressions. A batch names its memory by
// unified addresses only, and in that form the driver takes an address in the
// middle of a swap for host memory. So the copies that meet a pool are taken out
// of the batch and made one by one in the typed form, in the same stream; copies
// of a batch have no order among themselves. The rest stays a batch.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "preload/copy_range.h"
#include "preload/gate.h"
#include "preload/hook_boundary.h"
#include "preload/hooks.h"
#include "preload/payload.h"
#include "preload/row_copy.h"

namespace kvshim::preload {
namespace {

std::uint64_t word(const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer); }

/// A source in host memory that may be reused once the call has returned: an
/// asynchronous copy from pinned memory must then have ended.
CUresult finish_during_call(StreamRef stream, bool needed, CUresult result) {
  if (!needed || result != CUDA_SUCCESS || is_capturing(stream)) return result;
  return real().cuStreamSynchronize(stream.explicit_handle());
}

struct Batch {
  CUdeviceptr* to;
  CUdeviceptr* from;
  std::size_t* sizes;
  std::size_t count;
  CUmemcpyAttributes* attributes;
  std::size_t* attribute_starts;
  std::size_t attribute_count;
};

/// The attributes of each copy; nothing when the batch is malformed (the driver
/// then says so).
std::optional<std::vector<CUmemcpyAttributes>> attributes_of(const Batch& batch) {
  if (batch.to == nullptr || batch.from == nullptr || batch.sizes == nullptr ||
      batch.attributes == nullptr || batch.attribute_starts == nullptr ||
      batch.attribute_count == 0 || batch.attribute_count > batch.count ||
      batch.attribute_starts[0] != 0) {
    return std::nullopt;
  }
  std::vector<CUmemcpyAttributes> each(batch.count);
  std::size_t current = 0;
  for (std::size_t i = 0; i < batch.count; ++i) {
    while (current + 1 < batch.attribute_count && batch.attribute_starts[current + 1] <= i) {
      ++current;
    }
    each[i] = batch.attributes[current];
  }
  return each;
}

/// The copies of a batch that stay one, with their places in the original.
struct Rest {
  std::vector<CUdeviceptr> to;
  std::vector<CUdeviceptr> from;
  std::vector<std::size_t> sizes;
  std::vector<CUmemcpyAttributes> attributes;
  std::vector<std::size_t> starts;
  std::vector<std::size_t> places;
};

/// `call` makes a batch: (Batch, failing index or null). `typed` makes one copy:
/// (to, from, bytes, whether each is device memory).
template <class BatchCall, class TypedCall>
CUresult batch_copy(StreamRef stream, const Batch& batch, std::size_t* fail_index, BatchCall call,
                    TypedCall typed) noexcept {
  if (!pools_exist()) return call(batch, fail_index);
  return at_boundary([&]() -> CUresult {
    const auto attributes = attributes_of(batch);
    const bool null_stream = stream.explicit_handle() == CU_STREAM_LEGACY;
    if (!attributes || null_stream) return call(batch, fail_index);
    std::vector<Access> accesses;
    std::vector<std::size_t> pool_copies;
    Rest rest;
    for (std::size_t i = 0; i < batch.count; ++i) {
      const bool to_pool = meets_arena(batch.to[i], batch.sizes[i]);
      const bool from_pool = meets_arena(batch.from[i], batch.sizes[i]);
      if (!from_pool) {
        search_payload(stream, reinterpret_cast<const void*>(batch.from[i]), batch.sizes[i]);
      }
      if (to_pool || from_pool) {
        pool_copies.push_back(i);
        if (to_pool) accesses.push_back({batch.to[i], batch.sizes[i], true});
        if (from_pool) accesses.push_back({batch.from[i], batch.sizes[i], false});
        continue;
      }
      rest.to.push_back(batch.to[i]);
      rest.from.push_back(batch.from[i]);
      rest.sizes.push_back(batch.sizes[i]);
      rest.attributes.push_back((*attributes)[i]);
      rest.starts.push_back(rest.places.size());
      rest.places.push_back(i);
    }
    if (pool_copies.empty()) return call(batch, fail_index);
    bool during_call = false;
    const CUresult result = run_work(stream, accesses, nullptr, [&]() -> CUresult {
      if (!rest.places.empty()) {
        std::size_t failed = SIZE_MAX;
        const Batch remaining{rest.to.data(),     rest.from.data(),       rest.sizes.data(),
                              rest.places.size(), rest.attributes.data(), rest.starts.data(),
                              rest.places.size()};
        const CUresult partial = call(remaining, &failed);
        if (partial != CUDA_SUCCESS) {
          if (fail_index != nullptr) {
            *fail_index = failed < rest.places.size() ? rest.places[failed] : failed;
          }
          return partial;
        }
      }
      for (const std::size_t i : pool_copies) {
        const bool to_device = is_device_memory(batch.to[i]);
        const bool from_device = is_device_memory(batch.from[i]);
        during_call |= !from_device && (*attributes)[i].srcAccessOrder ==
                                           CU_MEMCPY_SRC_ACCESS_ORDER_DURING_API_CALL;
        const CUresult one = retry_over_holes([&] {
          return typed(batch.to[i], batch.from[i], batch.sizes[i], to_device, from_device);
        });
        if (one != CUDA_SUCCESS) {
          if (fail_index != nullptr) *fail_index = i;
          return one;
        }
      }
      return CUDA_SUCCESS;
    });
    return finish_during_call(stream, during_call, result);
  });
}

// Elements of arrays are at most this large; used where an array takes part.
constexpr std::size_t kMaxElement = 16;

bool is_pointer(const CUmemcpy3DOperand& operand) {
  return operand.type == CU_MEMCPY_OPERAND_TYPE_POINTER;
}

CopySide side_of(const CUmemcpy3DOperand& operand, std::size_t element) {
  if (!is_pointer(operand)) return {};
  return {.base = operand.op.ptr.ptr,
          .pitch = saturating_multiply(operand.op.ptr.rowLength, element),
          .slice_rows = operand.op.ptr.layerHeight};
}

/// The typed form of a copy between two pointers; the side outside every pool may
/// stay unified.
CUDA_MEMCPY3D typed_form(const CUDA_MEMCPY3D_BATCH_OP& copy, bool to_pool, bool from_pool) {
  CUDA_MEMCPY3D form = {};
  const auto& from = copy.src.op.ptr;
  const auto& to = copy.dst.op.ptr;
  form.srcMemoryType = from_pool ? CU_MEMORYTYPE_DEVICE : CU_MEMORYTYPE_UNIFIED;
  form.srcDevice = from.ptr;
  form.srcPitch = from.rowLength != 0 ? from.rowLength : copy.extent.width;
  form.srcHeight = from.layerHeight != 0 ? from.layerHeight : copy.extent.height;
  form.dstMemoryType = to_pool ? CU_MEMORYTYPE_DEVICE : CU_MEMORYTYPE_UNIFIED;
  form.dstDevice = to.ptr;
  form.dstPitch = to.rowLength != 0 ? to.rowLength : copy.extent.width;
  form.dstHeight = to.layerHeight != 0 ? to.layerHeight : copy.extent.height;
  form.WidthInBytes = copy.extent.width;
  form.Height = copy.extent.height;
  form.Depth = copy.extent.depth;
  return form;
}

/// A copy between two pointers, in rows.
CUresult copy_rows_of(StreamRef stream, const CUDA_MEMCPY3D_BATCH_OP& copy) {
  const CopyExtent extent{copy.extent.width, copy.extent.height, copy.extent.depth};
  const CopySide to = side_of(copy.dst, 1), from = side_of(copy.src, 1);
  if (!pitches_are_sane(to, extent) || !pitches_are_sane(from, extent)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  return copy_rows(stream, to, from, extent);
}

/// `call` makes a batch: (count, copies, failing index); `typed` one copy.
template <class BatchCall, class TypedCall>
CUresult batch_copy_boxes(StreamRef stream, std::size_t count, CUDA_MEMCPY3D_BATCH_OP* copies,
                          std::size_t* fail_index, unsigned long long flags, BatchCall call,
                          TypedCall typed) noexcept {
  if (!pools_exist() || copies == nullptr) return call(count, copies, fail_index);
  return at_boundary([&]() -> CUresult {
    const bool malformed = flags != 0 || stream.explicit_handle() == CU_STREAM_LEGACY ||
                           std::any_of(copies, copies + count, [](const auto& copy) {
                             return copy.srcAccessOrder <= CU_MEMCPY_SRC_ACCESS_ORDER_INVALID ||
                                    copy.srcAccessOrder > CU_MEMCPY_SRC_ACCESS_ORDER_ANY;
                           });
    if (malformed) return call(count, copies, fail_index);
    struct PoolCopy {
      std::size_t place;
      bool to_pool;
      bool from_pool;
    };
    std::vector<Access> accesses;
    std::vector<PoolCopy> pool_copies;
    std::vector<CUDA_MEMCPY3D_BATCH_OP> rest;
    std::vector<std::size_t> places;
    for (std::size_t i = 0; i < count; ++i) {
      const CUDA_MEMCPY3D_BATCH_OP& copy = copies[i];
      const std::size_t element = is_pointer(copy.src) && is_pointer(copy.dst) ? 1 : kMaxElement;
      const CopyExtent extent{saturating_multiply(copy.extent.width, element), copy.extent.height,
                              copy.extent.depth};
      const CopySide from_side = side_of(copy.src, element);
      const ByteRange to =
          is_pointer(copy.dst) ? touched(side_of(copy.dst, element), extent) : ByteRange{};
      const ByteRange from = is_pointer(copy.src) ? touched(from_side, extent) : ByteRange{};
      const bool to_pool = meets_arena(to.address, to.bytes);
      const bool from_pool = meets_arena(from.address, from.bytes);
      if (element == 1 && !from_pool) search_payload(stream, from_side, extent);
      if (!to_pool && !from_pool) {
        rest.push_back(copy);
        places.push_back(i);
        continue;
      }
      pool_copies.push_back({i, to_pool, from_pool});
      if (to_pool) accesses.push_back({to.address, to.bytes, true});
      if (from_pool) accesses.push_back({from.address, from.bytes, false});
    }
    if (pool_copies.empty()) return call(count, copies, fail_index);
    bool during_call = false;
    const CUresult result = run_work(stream, accesses, nullptr, [&]() -> CUresult {
      if (!rest.empty()) {
        std::size_t failed = SIZE_MAX;
        const CUresult partial = call(rest.size(), rest.data(), &failed);
        if (partial != CUDA_SUCCESS) {
          if (fail_index != nullptr) *fail_index = failed < places.size() ? places[failed] : failed;
          return partial;
        }
      }
      for (const PoolCopy& one : pool_copies) {
        CUDA_MEMCPY3D_BATCH_OP& copy = copies[one.place];
        const bool pointers = is_pointer(copy.src) && is_pointer(copy.dst);
        during_call |= pointers && !is_device_memory(copy.src.op.ptr.ptr) &&
                       copy.srcAccessOrder == CU_MEMCPY_SRC_ACCESS_ORDER_DURING_API_CALL;
        CUresult made = retry_over_holes([&]() -> CUresult {
          // Between a pool and an array the batch form is the only one without
          // the array's element size; the retry covers a swap.
          std::size_t ignored = 0;
          if (!pointers) return call(1, &copy, &ignored);
          const CUDA_MEMCPY3D form = typed_form(copy, one.to_pool, one.from_pool);
          return typed(form);
        });
        if (made == CUDA_ERROR_INVALID_VALUE && pointers) made = copy_rows_of(stream, copy);
        if (made != CUDA_SUCCESS) {
          if (fail_index != nullptr) *fail_index = one.place;
          return made;
        }
      }
      return CUDA_SUCCESS;
    });
    return finish_during_call(stream, during_call, result);
  });
}

template <class Call>
CUresult decompress(StreamRef stream, const CUmemDecompressParams* list, std::size_t count,
                    Call call) noexcept {
  if (!pools_exist() || list == nullptr) return call();
  return at_boundary([&] {
    std::vector<Access> accesses;
    const auto add = [&](const void* address, std::size_t bytes, bool writes) {
      if (meets_arena(word(address), bytes)) accesses.push_back({word(address), bytes, writes});
    };
    for (std::size_t i = 0; i < count; ++i) {
      add(list[i].src, list[i].srcNumBytes, false);
      add(list[i].dstActBytes, sizeof(cuuint32_t), true);
      // The size is optional: without it anything up to the pool's end is written.
      if (list[i].dstNumBytes != 0) {
        add(list[i].dst, list[i].dstNumBytes, true);
      } else if (const auto pool = find_pool(word(list[i].dst))) {
        add(list[i].dst, static_cast<std::size_t>(pool->base + pool->bytes - word(list[i].dst)),
            true);
      }
    }
    if (accesses.empty()) return call();
    return run_work(stream, accesses, nullptr, [&] { return retry_over_holes(call); });
  });
}

}  // namespace

// A batch's failing index exists in the first version only. The typed copies are
// those of the stream's flavour (d: destination, o: origin).
#define KVSHIM_TYPED_COPY(suffix)                                                            \
  [s](CUdeviceptr d, CUdeviceptr o, std::size_t n, bool to_device, bool from_device) {       \
    if (!from_device) {                                                                      \
      return real().cuMemcpyHtoDAsync_v2##suffix(d, reinterpret_cast<const void*>(o), n, s); \
    }                                                                                        \
    if (!to_device) {                                                                        \
      return real().cuMemcpyDtoHAsync_v2##suffix(reinterpret_cast<void*>(d), o, n, s);       \
    }                                                                                        \
    return real().cuMemcpyDtoDAsync_v2##suffix(d, o, n, s);                                  \
  }

#define KVSHIM_BATCH_HOOKS(suffix, flavor)                                                         \
  CUresult hook_cuMemcpyBatchAsync##suffix(CUdeviceptr* to, CUdeviceptr* from, std::size_t* sizes, \
                                           std::size_t count, CUmemcpyAttributes* attributes,      \
                                           std::size_t* starts, std::size_t attribute_count,       \
                                           std::size_t* fail_index, CUstream s) noexcept {         \
    return batch_copy(                                                                             \
        {s, StreamFlavor::flavor}, {to, from, sizes, count, attributes, starts, attribute_count},  \
        fail_index,                                                                                \
        [s](const Batch& b, std::size_t* failed) {                                                 \
          return real().cuMemcpyBatchAsync##suffix(b.to, b.from, b.sizes, b.count, b.attributes,   \
                                                   b.attribute_starts, b.attribute_count, failed,  \
                                                   s);                                             \
        },                                                                                         \
        KVSHIM_TYPED_COPY(suffix));                                                                \
  }                                                                                                \
  CUresult hook_cuMemcpyBatchAsync_v2##suffix(CUdeviceptr* to, CUdeviceptr* from,                  \
                                              std::size_t* sizes, std::size_t count,               \
                                              CUmemcpyAttributes* attributes, std::size_t* starts, \
                                              std::size_t attribute_count, CUstream s) noexcept {  \
    return batch_copy(                                                                             \
        {s, StreamFlavor::flavor}, {to, from, sizes, count, attributes, starts, attribute_count},  \
        nullptr,                                                                                   \
        [s](const Batch& b, std::size_t*) {                                                        \
          return real().cuMemcpyBatchAsync_v2##suffix(b.to, b.from, b.sizes, b.count,              \
                                                      b.attributes, b.attribute_starts,            \
                                                      b.attribute_count, s);                       \
        },                                                                                         \
        KVSHIM_TYPED_COPY(suffix));                                                                \
  }                                                                                                \
  CUresult hook_cuMemcpy3DBatchAsync##suffix(std::size_t count, CUDA_MEMCPY3D_BATCH_OP* copies,    \
                                             std::size_t* fail_index, unsigned long long flags,    \
                                             CUstream s) noexcept {                                \
    return batch_copy_boxes(                                                                       \
        {s, StreamFlavor::flavor}, count, copies, fail_index, flags,                               \
        [s, flags](std::size_t n, CUDA_MEMCPY3D_BATCH_OP* list, std::size_t* failed) {             \
          return real().cuMemcpy3DBatchAsync##suffix(n, list, failed, flags, s);                   \
        },                                                                                         \
        [s](const CUDA_MEMCPY3D& form) { return real().cuMemcpy3DAsync_v2##suffix(&form, s); });   \
  }                                                                                                \
  CUresult hook_cuMemcpy3DBatchAsync_v2##suffix(std::size_t count, CUDA_MEMCPY3D_BATCH_OP* copies, \
                                                unsigned long long flags, CUstream s) noexcept {   \
    return batch_copy_boxes(                                                                       \
        {s, StreamFlavor::flavor}, count, copies, nullptr, flags,                                  \
        [s, flags](std::size_t n, CUDA_MEMCPY3D_BATCH_OP* list, std::size_t*) {                    \
          return real().cuMemcpy3DBatchAsync_v2##suffix(n, list, flags, s);                        \
        },                                                                                         \
        [s](const CUDA_MEMCPY3D& form) { return real().cuMemcpy3DAsync_v2##suffix(&form, s); });   \
  }                                                                                                \
  CUresult hook_cuMemBatchDecompressAsync##suffix(CUmemDecompressParams* list, std::size_t count,  \
                                                  unsigned int flags, std::size_t* error_index,    \
                                                  CUstream s) noexcept {                           \
    return decompress({s, StreamFlavor::flavor}, list, count, [&] {                                \
      return real().cuMemBatchDecompressAsync##suffix(list, count, flags, error_index, s);         \
    });                                                                                            \
  }

KVSHIM_BATCH_HOOKS(, kLegacy)
KVSHIM_BATCH_HOOKS(_ptsz, kPerThread)

}  // namespace kvshim::preload
