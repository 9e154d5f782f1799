// Attributes of streams: kept and given back; none changes what runs when.
#include "tests/simulator/capture.h"
#include "tests/simulator/streams.h"

namespace kvshim::simulator {

CUresult api::cuStreamSetAttribute(CUstream handle, CUstreamAttrID attribute,
                                   const CUstreamAttrValue* value) {
  const StreamLock lock(stream_mutex());
  const auto stream = find_stream(lock, handle);
  if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (value == nullptr) return CUDA_ERROR_INVALID_VALUE;
  stream->attributes[attribute] = *value;
  return CUDA_SUCCESS;
}

CUresult api::cuStreamGetAttribute(CUstream handle, CUstreamAttrID attribute,
                                   CUstreamAttrValue* value) {
  const StreamLock lock(stream_mutex());
  const auto stream = find_stream(lock, handle);
  if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (value == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *value = CUstreamAttrValue{};
  if (attribute == CU_STREAM_ATTRIBUTE_PRIORITY) value->priority = stream->priority;
  if (attribute == CU_STREAM_ATTRIBUTE_SYNCHRONIZATION_POLICY)
    value->syncPolicy = CU_SYNC_POLICY_AUTO;
  if (const auto set = stream->attributes.find(attribute); set != stream->attributes.end()) {
    *value = set->second;
  }
  return CUDA_SUCCESS;
}

CUresult api::cuStreamCopyAttributes(CUstream to, CUstream from) {
  const StreamLock lock(stream_mutex());
  const auto source = find_stream(lock, from);
  const auto destination = find_stream(lock, to);
  if (source == nullptr || destination == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  destination->attributes = source->attributes;
  return CUDA_SUCCESS;
}

}  // namespace kvshim::simulator
