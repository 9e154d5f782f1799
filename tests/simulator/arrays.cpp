// CUDA arrays as plain rows of bytes: enough for the copies to and from them.
#include <memory>
#include <mutex>
#include <unordered_map>

#include "tests/simulator/copies.h"

namespace kvshim::simulator {
namespace {

struct Arrays {
  std::mutex mutex;
  std::unordered_map<CUarray, std::unique_ptr<ArrayMemory>> all;
};

Arrays& arrays() {
  static Arrays* const instance = new Arrays;
  return *instance;
}

std::size_t element_bytes(CUarray_format format) {
  switch (format) {
    case CU_AD_FORMAT_UNSIGNED_INT8:
    case CU_AD_FORMAT_SIGNED_INT8:
      return 1;
    case CU_AD_FORMAT_UNSIGNED_INT16:
    case CU_AD_FORMAT_SIGNED_INT16:
    case CU_AD_FORMAT_HALF:
      return 2;
    case CU_AD_FORMAT_UNSIGNED_INT32:
    case CU_AD_FORMAT_SIGNED_INT32:
    case CU_AD_FORMAT_FLOAT:
      return 4;
    default:
      return 0;
  }
}

CUresult make(CUarray* array, const CUDA_ARRAY3D_DESCRIPTOR& descriptor) {
  const std::size_t element = element_bytes(descriptor.Format);
  if (array == nullptr || element == 0 || descriptor.Width == 0 || descriptor.NumChannels == 0) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  auto memory = std::make_unique<ArrayMemory>();
  memory->descriptor = descriptor;
  memory->row_bytes = descriptor.Width * descriptor.NumChannels * element;
  memory->rows = descriptor.Height == 0 ? 1 : descriptor.Height;
  memory->bytes.resize(memory->row_bytes * memory->rows *
                       (descriptor.Depth == 0 ? 1 : descriptor.Depth));
  Arrays& all = arrays();
  const std::lock_guard lock(all.mutex);
  *array = reinterpret_cast<CUarray>(memory.get());
  all.all[*array] = std::move(memory);
  return CUDA_SUCCESS;
}

}  // namespace

ArrayMemory* find_array(CUarray array) {
  Arrays& all = arrays();
  const std::lock_guard lock(all.mutex);
  const auto found = all.all.find(array);
  return found == all.all.end() ? nullptr : found->second.get();
}

CUresult api::cuArrayCreate_v2(CUarray* array, const CUDA_ARRAY_DESCRIPTOR* flat) {
  if (flat == nullptr) return CUDA_ERROR_INVALID_VALUE;
  CUDA_ARRAY3D_DESCRIPTOR descriptor{};
  descriptor.Width = flat->Width;
  descriptor.Height = flat->Height;
  descriptor.Format = flat->Format;
  descriptor.NumChannels = flat->NumChannels;
  return make(array, descriptor);
}

CUresult api::cuArray3DCreate_v2(CUarray* array, const CUDA_ARRAY3D_DESCRIPTOR* descriptor) {
  if (descriptor == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return make(array, *descriptor);
}

CUresult api::cuArrayDestroy(CUarray array) {
  Arrays& all = arrays();
  const std::lock_guard lock(all.mutex);
  return all.all.erase(array) == 1 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

CUresult api::cuArray3DGetDescriptor_v2(CUDA_ARRAY3D_DESCRIPTOR* descriptor, CUarray array) {
  const ArrayMemory* memory = find_array(array);
  if (descriptor == nullptr || memory == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *descriptor = memory->descriptor;
  return CUDA_SUCCESS;
}

}  // namespace kvshim::simulator
