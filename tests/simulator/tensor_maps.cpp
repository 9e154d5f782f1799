// Tensor maps: opaque to programs. Here, as seen in maps of the real driver,
// the first word is the address; the rest keeps what describes the tensor.
#include <cstring>

#include "tests/simulator/api.h"

namespace kvshim::simulator {
namespace {

constexpr cuuint64_t kAddressAlignment = 16;

struct Layout {
  cuuint64_t address;
  cuuint32_t type, rank;
  cuuint64_t dimensions[5];
  cuuint64_t strides[4];
};
static_assert(sizeof(Layout) <= sizeof(CUtensorMap));

}  // namespace

CUresult api::cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank,
                                     void* address, const cuuint64_t* dimensions,
                                     const cuuint64_t* strides, const cuuint32_t* box,
                                     const cuuint32_t* element_strides, CUtensorMapInterleave,
                                     CUtensorMapSwizzle, CUtensorMapL2promotion,
                                     CUtensorMapFloatOOBfill) {
  if (map == nullptr || rank == 0 || rank > 5 || dimensions == nullptr || box == nullptr ||
      element_strides == nullptr || (rank > 1 && strides == nullptr)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  Layout layout{};
  layout.address = reinterpret_cast<cuuint64_t>(address);
  if (layout.address % kAddressAlignment != 0) return CUDA_ERROR_INVALID_VALUE;
  layout.type = static_cast<cuuint32_t>(type);
  layout.rank = rank;
  for (cuuint32_t i = 0; i < rank; ++i) {
    if (dimensions[i] == 0 || box[i] == 0 || box[i] > 256) return CUDA_ERROR_INVALID_VALUE;
    layout.dimensions[i] = dimensions[i];
    if (i + 1 < rank) layout.strides[i] = strides[i];
  }
  std::memset(map, 0, sizeof *map);
  std::memcpy(map, &layout, sizeof layout);
  return CUDA_SUCCESS;
}

CUresult api::cuTensorMapReplaceAddress(CUtensorMap* map, void* address) {
  const auto word = reinterpret_cast<cuuint64_t>(address);
  if (map == nullptr || word % kAddressAlignment != 0) return CUDA_ERROR_INVALID_VALUE;
  std::memcpy(map, &word, sizeof word);
  return CUDA_SUCCESS;
}

}  // namespace kvshim::simulator
