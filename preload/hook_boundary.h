// The edge between the host's code and ours: nothing thrown crosses it.
#pragma once

#include <cuda.h>

#include <new>
#include <utility>

namespace kvshim::preload {

/// Runs the body of a hook. What it throws becomes a result of the driver's.
template <class Body>
CUresult at_boundary(Body&& body) noexcept {
  try {
    return std::forward<Body>(body)();
  } catch (const std::bad_alloc&) {
    return CUDA_ERROR_OUT_OF_MEMORY;
  } catch (...) {
    return CUDA_ERROR_UNKNOWN;
  }
}

}  // namespace kvshim::preload
