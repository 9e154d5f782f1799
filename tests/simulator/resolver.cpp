// cuGetProcAddress: the newest variant of a name that the caller's version
// knows. Answers and status codes as measured (semantics_probe).
#include <cstdint>
#include <string_view>

#include "tests/simulator/api.h"
#include "tests/simulator/export_table.h"

namespace kvshim::simulator {
namespace {

struct Parts {
  std::string_view base;
  bool per_thread = false;
};

Parts parts_of(std::string_view name) {
  Parts parts{name};
  for (const std::string_view tail : {"_ptsz", "_ptds"}) {
    if (!parts.base.ends_with(tail)) continue;
    parts.base.remove_suffix(tail.size());
    parts.per_thread = true;
  }
  const std::size_t size = parts.base.size();
  if (size > 3 && parts.base[size - 3] == '_' && parts.base[size - 2] == 'v') {
    parts.base.remove_suffix(3);
  }
  return parts;
}

CUdriverProcAddressQueryResult look_up(std::string_view symbol, int version, cuuint64_t flags,
                                       void** address) {
  const bool per_thread = (flags & CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM) != 0;
  const ExportRow* best = nullptr;
  const ExportRow* best_per_thread = nullptr;
  bool known = false;
  for (const ExportRow& row : export_rows()) {
    const Parts parts = parts_of(row.name);
    if (parts.base != symbol) continue;
    known = true;
    if (row.version > version) continue;
    const ExportRow*& place = parts.per_thread ? best_per_thread : best;
    if (place == nullptr || row.version >= place->version) place = &row;
  }
  const ExportRow* chosen = per_thread && best_per_thread != nullptr ? best_per_thread : best;
  *address = chosen == nullptr ? nullptr : chosen->address;
  if (chosen != nullptr) return CU_GET_PROC_ADDRESS_SUCCESS;
  return known ? CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
}

}  // namespace

CUresult api::cuGetProcAddress_v2(const char* symbol, void** address, int version, cuuint64_t flags,
                                  CUdriverProcAddressQueryResult* status) {
  if (symbol == nullptr || address == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const CUdriverProcAddressQueryResult result = look_up(symbol, version, flags, address);
  if (status != nullptr) *status = result;
  return CUDA_SUCCESS;
}

CUresult api::cuGetProcAddress(const char* symbol, void** address, int version, cuuint64_t flags) {
  if (symbol == nullptr || address == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return look_up(symbol, version, flags, address) == CU_GET_PROC_ADDRESS_SUCCESS
             ? CUDA_SUCCESS
             : CUDA_ERROR_NOT_FOUND;
}

CUresult api::cuGetExportTable(const void** table, const CUuuid*) {
  // The tables are private to NVIDIA's own libraries: the CUDA runtime does
  // not run on the simulator.
  if (table == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *table = nullptr;
  return CUDA_ERROR_NOT_FOUND;
}

}  // namespace kvshim::simulator
