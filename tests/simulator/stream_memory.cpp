// cuStreamWaitValue, cuStreamWriteValue and batches of them.
#include "tests/simulator/address_space.h"
#include "tests/simulator/streams.h"

namespace kvshim::simulator {
namespace {

CUresult check(const CUstreamBatchMemOpParams& operation) {
  switch (operation.operation) {
    case CU_STREAM_MEM_OP_WAIT_VALUE_32:
    case CU_STREAM_MEM_OP_WRITE_VALUE_32:
      return operation.waitValue.address % 4 == 0 && is_covered(operation.waitValue.address, 4)
                 ? CUDA_SUCCESS
                 : CUDA_ERROR_INVALID_VALUE;
    case CU_STREAM_MEM_OP_WAIT_VALUE_64:
    case CU_STREAM_MEM_OP_WRITE_VALUE_64:
      return operation.waitValue.address % 8 == 0 && is_covered(operation.waitValue.address, 8)
                 ? CUDA_SUCCESS
                 : CUDA_ERROR_INVALID_VALUE;
    case CU_STREAM_MEM_OP_FLUSH_REMOTE_WRITES:
    case CU_STREAM_MEM_OP_BARRIER:
      return CUDA_SUCCESS;
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
}

CUresult submit_batch(CUstream stream, unsigned count, const CUstreamBatchMemOpParams* operations) {
  if (count == 0 || count > 256 || operations == nullptr) return CUDA_ERROR_INVALID_VALUE;
  MemoryOperations batch;
  for (unsigned i = 0; i < count; ++i) {
    if (const CUresult bad = check(operations[i]); bad != CUDA_SUCCESS) return bad;
    batch.operations.push_back(operations[i]);
  }
  return submit(stream, std::move(batch));
}

CUresult submit_one(CUstream stream, CUstreamBatchMemOpType type, CUdeviceptr address,
                    cuuint64_t value, unsigned flags) {
  CUstreamBatchMemOpParams operation{};
  operation.operation = type;
  operation.waitValue.address = address;  // wait and write have one layout
  operation.waitValue.value64 = value;
  operation.waitValue.flags = flags;
  return submit_batch(stream, 1, &operation);
}

}  // namespace

CUresult api::cuStreamWaitValue32_v2(CUstream stream, CUdeviceptr address, cuuint32_t value,
                                     unsigned flags) {
  return submit_one(stream, CU_STREAM_MEM_OP_WAIT_VALUE_32, address, value, flags);
}
CUresult api::cuStreamWaitValue64_v2(CUstream stream, CUdeviceptr address, cuuint64_t value,
                                     unsigned flags) {
  return submit_one(stream, CU_STREAM_MEM_OP_WAIT_VALUE_64, address, value, flags);
}
CUresult api::cuStreamWriteValue32_v2(CUstream stream, CUdeviceptr address, cuuint32_t value,
                                      unsigned flags) {
  return submit_one(stream, CU_STREAM_MEM_OP_WRITE_VALUE_32, address, value, flags);
}
CUresult api::cuStreamWriteValue64_v2(CUstream stream, CUdeviceptr address, cuuint64_t value,
                                      unsigned flags) {
  return submit_one(stream, CU_STREAM_MEM_OP_WRITE_VALUE_64, address, value, flags);
}
CUresult api::cuStreamBatchMemOp_v2(CUstream stream, unsigned count,
                                    CUstreamBatchMemOpParams* operations, unsigned) {
  return submit_batch(stream, count, operations);
}
CUresult api::cuStreamWaitValue32(CUstream stream, CUdeviceptr address, cuuint32_t value,
                                  unsigned flags) {
  return api::cuStreamWaitValue32_v2(stream, address, value, flags);
}
CUresult api::cuStreamWaitValue64(CUstream stream, CUdeviceptr address, cuuint64_t value,
                                  unsigned flags) {
  return api::cuStreamWaitValue64_v2(stream, address, value, flags);
}
CUresult api::cuStreamWriteValue32(CUstream stream, CUdeviceptr address, cuuint32_t value,
                                   unsigned flags) {
  return api::cuStreamWriteValue32_v2(stream, address, value, flags);
}
CUresult api::cuStreamWriteValue64(CUstream stream, CUdeviceptr address, cuuint64_t value,
                                   unsigned flags) {
  return api::cuStreamWriteValue64_v2(stream, address, value, flags);
}
CUresult api::cuStreamBatchMemOp(CUstream stream, unsigned count,
                                 CUstreamBatchMemOpParams* operations, unsigned flags) {
  return api::cuStreamBatchMemOp_v2(stream, count, operations, flags);
}

}  // namespace kvshim::simulator
