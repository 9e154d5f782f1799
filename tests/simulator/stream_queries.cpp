// Waiting for streams, and what a program can ask about them.
#include "tests/simulator/streams.h"

#include <utility>

#include "tests/simulator/capture.h"

namespace kvshim::simulator {
namespace {

/// One thing about a stream.
template <class Value, class Of>
CUresult tell(CUstream handle, Value* value, Of&& of) {
  const StreamLock lock(stream_mutex());
  const auto stream = find_stream(lock, handle);
  if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (value == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *value = std::forward<Of>(of)(*stream);
  return CUDA_SUCCESS;
}

CUresult synchronize(Context* context) {
  StreamLock lock(stream_mutex());
  if (const CUresult refused = refuse_context_wait(lock, *context); refused != CUDA_SUCCESS) {
    return refused;
  }
  synchronize_context(lock, context);
  return context->sticky.load();
}

}  // namespace

CUresult api::cuStreamSynchronize(CUstream handle) {
  StreamLock lock(stream_mutex());
  const auto stream = find_stream(lock, handle);
  if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (const CUresult refused = refuse_stream_wait(lock, *stream); refused != CUDA_SUCCESS) {
    return refused;
  }
  for (const auto& completion : unfinished(lock, *stream)) wait_for(lock, completion);
  return stream->context->sticky.load();
}

CUresult api::cuStreamQuery(CUstream handle) {
  StreamLock lock(stream_mutex());
  const auto stream = find_stream(lock, handle);
  if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (const CUresult refused = refuse_stream_wait(lock, *stream); refused != CUDA_SUCCESS) {
    return refused;
  }
  return unfinished(lock, *stream).empty() ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}

CUresult api::cuCtxSynchronize() { return synchronize(current_context()); }

CUresult api::cuCtxSynchronize_v2(CUcontext handle) {
  Context* context = handle == nullptr ? current_context() : context_of(handle);
  return context == nullptr ? CUDA_ERROR_INVALID_CONTEXT : synchronize(context);
}

CUresult api::cuStreamGetCtx(CUstream handle, CUcontext* context) {
  return tell(handle, context, [](const Stream& stream) { return handle_of(stream.context); });
}

CUresult api::cuStreamGetCtx_v2(CUstream handle, CUcontext* context, CUgreenCtx* green) {
  if (green != nullptr) *green = nullptr;
  return api::cuStreamGetCtx(handle, context);
}

CUresult api::cuStreamGetDevice(CUstream handle, CUdevice* device) {
  return tell(handle, device, [](const Stream&) { return 0; });
}

CUresult api::cuStreamGetFlags(CUstream handle, unsigned* flags) {
  return tell(handle, flags, [](const Stream& stream) { return stream.flags; });
}

CUresult api::cuStreamGetPriority(CUstream handle, int* priority) {
  return tell(handle, priority, [](const Stream& stream) { return stream.priority; });
}

CUresult api::cuStreamGetId(CUstream handle, unsigned long long* id) {
  return tell(handle, id, [](const Stream& stream) { return stream.id; });
}

}  // namespace kvshim::simulator
