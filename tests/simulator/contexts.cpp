#include "tests/simulator/contexts.h"

#include <algorithm>
#include <mutex>
#include <vector>

#include "tests/simulator/memory.h"
#include "tests/simulator/modules.h"
#include "tests/simulator/streams.h"

namespace kvshim::simulator {
namespace {

constexpr int kMaxDepth = 64;

// Trivially destructible: other libraries' thread-exit code may still call us.
thread_local Context* stack[kMaxDepth];
thread_local int depth = 0;

struct Contexts {
  std::mutex mutex;
  std::vector<Context*> all;
  Context* primary = nullptr;
  unsigned primary_references = 0;
  unsigned primary_flags = 0;
  std::uint64_t next_id = 1;
};

Contexts& contexts() {
  static Contexts* const instance = new Contexts;
  return *instance;
}

void start(Context& context, unsigned flags) {
  context.flags = flags;
  context.sticky.store(CUDA_SUCCESS);
  context.legacy_stream = make_legacy_stream(&context);
  context.alive.store(true);
}

Context* make_locked(Contexts& all) {
  auto* context = new Context;
  context->id = all.next_id++;
  all.all.push_back(context);
  return context;
}

/// Waits for the context's work, then frees what belongs to it.
void end(Context& context) {
  synchronize_context(&context);
  context.alive.store(false);
  destroy_streams_of(&context);
  free_memory_of(&context);
  unload_modules_of(&context);
}

CUresult push(Context* context) {
  if (depth == kMaxDepth) return CUDA_ERROR_OUT_OF_MEMORY;
  stack[depth++] = context;
  return CUDA_SUCCESS;
}

}  // namespace

Context* context_of(CUcontext handle) noexcept {
  Contexts& all = contexts();
  const std::lock_guard lock(all.mutex);
  auto* context = reinterpret_cast<Context*>(handle);
  return std::find(all.all.begin(), all.all.end(), context) != all.all.end() ? context : nullptr;
}

Context* current_context() noexcept { return depth == 0 ? nullptr : stack[depth - 1]; }

CUresult api::cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
  if (context == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (device != 0) return CUDA_ERROR_INVALID_DEVICE;
  Contexts& all = contexts();
  const std::lock_guard lock(all.mutex);
  if (all.primary == nullptr) {
    all.primary = make_locked(all);
    all.primary->primary = true;
  }
  if (all.primary_references++ == 0) start(*all.primary, all.primary_flags);
  *context = handle_of(all.primary);
  return CUDA_SUCCESS;
}

CUresult api::cuDevicePrimaryCtxRelease_v2(CUdevice device) {
  if (device != 0) return CUDA_ERROR_INVALID_DEVICE;
  Contexts& all = contexts();
  Context* last = nullptr;
  {
    const std::lock_guard lock(all.mutex);
    if (all.primary_references == 0) return CUDA_ERROR_INVALID_CONTEXT;
    if (--all.primary_references == 0) last = all.primary;
  }
  if (last != nullptr) end(*last);
  return CUDA_SUCCESS;
}

CUresult api::cuDevicePrimaryCtxReset_v2(CUdevice device) {
  if (device != 0) return CUDA_ERROR_INVALID_DEVICE;
  Contexts& all = contexts();
  Context* ended = nullptr;
  {
    const std::lock_guard lock(all.mutex);
    if (all.primary_references != 0) ended = all.primary;
    all.primary_references = 0;
  }
  if (ended != nullptr) end(*ended);
  return CUDA_SUCCESS;
}

CUresult api::cuDevicePrimaryCtxGetState(CUdevice device, unsigned* flags, int* active) {
  if (device != 0) return CUDA_ERROR_INVALID_DEVICE;
  Contexts& all = contexts();
  const std::lock_guard lock(all.mutex);
  if (flags != nullptr) *flags = all.primary_flags;
  if (active != nullptr) *active = all.primary_references != 0 ? 1 : 0;
  return CUDA_SUCCESS;
}

CUresult api::cuDevicePrimaryCtxSetFlags_v2(CUdevice device, unsigned flags) {
  if (device != 0) return CUDA_ERROR_INVALID_DEVICE;
  Contexts& all = contexts();
  const std::lock_guard lock(all.mutex);
  all.primary_flags = flags;
  if (all.primary != nullptr) all.primary->flags = flags;
  return CUDA_SUCCESS;
}

CUresult api::cuCtxCreate_v2(CUcontext* context, unsigned flags, CUdevice device) {
  if (context == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (device != 0) return CUDA_ERROR_INVALID_DEVICE;
  Contexts& all = contexts();
  const std::lock_guard lock(all.mutex);
  Context* made = make_locked(all);
  start(*made, flags);
  *context = handle_of(made);
  return push(made);
}

CUresult api::cuCtxCreate_v3(CUcontext* context, CUexecAffinityParam*, int, unsigned flags,
                             CUdevice device) {
  return api::cuCtxCreate_v2(context, flags, device);
}

CUresult api::cuCtxCreate_v4(CUcontext* context, CUctxCreateParams*, unsigned flags,
                             CUdevice device) {
  return api::cuCtxCreate_v2(context, flags, device);
}

CUresult api::cuCtxDestroy_v2(CUcontext handle) {
  Context* context = context_of(handle);
  if (context == nullptr || context->primary) return CUDA_ERROR_INVALID_CONTEXT;
  if (!context->alive.load()) return CUDA_ERROR_CONTEXT_IS_DESTROYED;
  end(*context);
  if (current_context() == context) --depth;
  return CUDA_SUCCESS;
}

CUresult api::cuCtxPushCurrent_v2(CUcontext handle) {
  Context* context = context_of(handle);
  if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  return push(context);
}

CUresult api::cuCtxPopCurrent_v2(CUcontext* context) {
  if (depth == 0) return CUDA_ERROR_INVALID_CONTEXT;
  --depth;
  if (context != nullptr) *context = handle_of(stack[depth]);
  return CUDA_SUCCESS;
}

CUresult api::cuCtxSetCurrent(CUcontext handle) {
  if (handle == nullptr) {
    if (depth > 0) --depth;
    return CUDA_SUCCESS;
  }
  Context* context = context_of(handle);
  if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  if (!context->alive.load()) return CUDA_ERROR_CONTEXT_IS_DESTROYED;
  if (depth > 0) --depth;
  return push(context);
}

CUresult api::cuCtxGetCurrent(CUcontext* context) {
  if (context == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *context = handle_of(current_context());
  return CUDA_SUCCESS;
}

CUresult api::cuCtxGetDevice(CUdevice* device) {
  if (device == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *device = 0;
  return CUDA_SUCCESS;
}

CUresult api::cuCtxGetDevice_v2(CUdevice* device, CUcontext handle) {
  if (device == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (handle != nullptr && context_of(handle) == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  *device = 0;
  return CUDA_SUCCESS;
}

CUresult api::cuCtxGetFlags(unsigned* flags) {
  if (flags == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *flags = current_context()->flags;
  return CUDA_SUCCESS;
}

CUresult api::cuCtxSetFlags(unsigned flags) {
  current_context()->flags = flags;
  return CUDA_SUCCESS;
}

CUresult api::cuCtxGetId(CUcontext handle, unsigned long long* id) {
  Context* context = handle == nullptr ? current_context() : context_of(handle);
  if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  if (id == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *id = context->id;
  return CUDA_SUCCESS;
}

CUresult api::cuCtxGetApiVersion(CUcontext handle, unsigned* version) {
  Context* context = handle == nullptr ? current_context() : context_of(handle);
  if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  if (version == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *version = 3020;
  return CUDA_SUCCESS;
}

CUresult api::cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  if (least != nullptr) *least = 0;
  if (greatest != nullptr) *greatest = -5;
  return CUDA_SUCCESS;
}

CUresult api::cuCtxGetLimit(std::size_t* value, CUlimit limit) {
  if (value == nullptr) return CUDA_ERROR_INVALID_VALUE;
  switch (limit) {
    case CU_LIMIT_STACK_SIZE:
      *value = 1024;
      return CUDA_SUCCESS;
    case CU_LIMIT_PRINTF_FIFO_SIZE:
    case CU_LIMIT_MALLOC_HEAP_SIZE:
      *value = std::size_t{8} << 20;
      return CUDA_SUCCESS;
    default:
      return CUDA_ERROR_UNSUPPORTED_LIMIT;
  }
}

CUresult api::cuCtxSetLimit(CUlimit limit, std::size_t) {
  // Taken note of by nobody: host functions run on the stream's own stack.
  return limit <= CU_LIMIT_MALLOC_HEAP_SIZE ? CUDA_SUCCESS : CUDA_ERROR_UNSUPPORTED_LIMIT;
}

CUresult api::cuCtxGetCacheConfig(CUfunc_cache* config) {
  if (config == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *config = CU_FUNC_CACHE_PREFER_NONE;
  return CUDA_SUCCESS;
}

CUresult api::cuCtxSetCacheConfig(CUfunc_cache) { return CUDA_SUCCESS; }

CUresult api::cuCtxEnablePeerAccess(CUcontext, unsigned) {
  return CUDA_ERROR_PEER_ACCESS_UNSUPPORTED;  // there is one device
}

CUresult api::cuCtxDisablePeerAccess(CUcontext) { return CUDA_ERROR_PEER_ACCESS_NOT_ENABLED; }

}  // namespace kvshim::simulator
