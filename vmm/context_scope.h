// Scopes for the shim's own driver calls.
#pragma once

#include "vmm/driver.h"

namespace kvshim::vmm {

/// Makes a context current for a scope.
class ContextScope {
 public:
  ContextScope(const DriverApi& driver, CUcontext context)
      : driver_(driver), pushed_(driver.cuCtxPushCurrent_v2(context) == CUDA_SUCCESS) {}
  ~ContextScope() {
    CUcontext popped = nullptr;
    if (pushed_) driver_.cuCtxPopCurrent_v2(&popped);
  }
  ContextScope(const ContextScope&) = delete;
  ContextScope& operator=(const ContextScope&) = delete;
  bool ok() const { return pushed_; }

 private:
  const DriverApi& driver_;
  bool pushed_;
};

/// Lets a scope make calls that a capture elsewhere in the process would
/// forbid (facts: allocation, queries and the like invalidate a global
/// capture from any thread unless the calling thread is relaxed).
class RelaxedCaptureScope {
 public:
  explicit RelaxedCaptureScope(const DriverApi& driver) : driver_(driver) {
    exchanged_ = driver_.cuThreadExchangeStreamCaptureMode(&mode_) == CUDA_SUCCESS;
  }
  ~RelaxedCaptureScope() {
    if (exchanged_) driver_.cuThreadExchangeStreamCaptureMode(&mode_);
  }
  RelaxedCaptureScope(const RelaxedCaptureScope&) = delete;
  RelaxedCaptureScope& operator=(const RelaxedCaptureScope&) = delete;

 private:
  const DriverApi& driver_;
  CUstreamCaptureMode mode_ = CU_STREAM_CAPTURE_MODE_RELAXED;
  bool exchanged_ = false;
};

}  // namespace kvshim::vmm
