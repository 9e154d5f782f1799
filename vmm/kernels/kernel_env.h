// The little that device code needs, once for the CUDA compiler and once for
// the host: one source serves the GPU and the simulator. On the host a block
// has one thread; kernels therefore stride by thread_count() and never assume
// a warp.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)

#define KVSHIM_KERNEL extern "C" __global__ void
#define KVSHIM_DEVICE __device__ __forceinline__
#define KVSHIM_SHARED __shared__
#define KVSHIM_UNROLL _Pragma("unroll")

namespace kvshim::kernel_env {
KVSHIM_DEVICE std::uint32_t thread_index() { return threadIdx.x; }
KVSHIM_DEVICE std::uint32_t thread_count() { return blockDim.x; }
KVSHIM_DEVICE std::uint32_t block_index() { return blockIdx.x; }
KVSHIM_DEVICE std::uint32_t block_count() { return gridDim.x; }
KVSHIM_DEVICE std::uint32_t block_index_y() { return blockIdx.y; }
KVSHIM_DEVICE void sync_block() { __syncthreads(); }
/// True in every thread of the block when `predicate` holds in any.
KVSHIM_DEVICE bool any_in_block(bool predicate) { return __syncthreads_or(predicate) != 0; }
KVSHIM_DEVICE std::uint32_t atomic_or(std::uint32_t* p, std::uint32_t v) { return atomicOr(p, v); }
KVSHIM_DEVICE std::uint32_t atomic_and(std::uint32_t* p, std::uint32_t v) {
  return atomicAnd(p, v);
}
KVSHIM_DEVICE std::uint32_t atomic_add(std::uint32_t* p, std::uint32_t v) {
  return atomicAdd(p, v);
}
KVSHIM_DEVICE std::uint32_t atomic_exchange(std::uint32_t* p, std::uint32_t v) {
  return atomicExch(p, v);
}
KVSHIM_DEVICE std::uint32_t load_volatile(const std::uint32_t* p) {
  return *static_cast<const volatile std::uint32_t*>(p);
}
KVSHIM_DEVICE void store_volatile(std::uint32_t* p, std::uint32_t v) {
  *static_cast<volatile std::uint32_t*>(p) = v;
}
/// A plain load that may race with writes; whoever uses the value proves that none did.
KVSHIM_DEVICE unsigned long long load_unordered(const unsigned long long* p) { return *p; }
KVSHIM_DEVICE void fence_device() { __threadfence(); }
KVSHIM_DEVICE void fence_system() { __threadfence_system(); }
KVSHIM_DEVICE void relax() { __nanosleep(200); }
}  // namespace kvshim::kernel_env

#else

#include <atomic>
#include <ctime>

#define KVSHIM_KERNEL extern "C" void
#define KVSHIM_DEVICE inline
#define KVSHIM_SHARED static thread_local
#define KVSHIM_UNROLL

namespace kvshim::kernel_env {
/// Set by the simulator before it calls a kernel for one block.
struct HostBlock {
  std::uint32_t x = 0, y = 0, count_x = 1;
};
inline thread_local HostBlock host_block;

inline std::uint32_t thread_index() { return 0; }
inline std::uint32_t thread_count() { return 1; }
inline std::uint32_t block_index() { return host_block.x; }
inline std::uint32_t block_count() { return host_block.count_x; }
inline std::uint32_t block_index_y() { return host_block.y; }
inline void sync_block() {}
inline bool any_in_block(bool predicate) { return predicate; }
inline std::uint32_t atomic_or(std::uint32_t* p, std::uint32_t v) {
  return std::atomic_ref(*p).fetch_or(v);
}
inline std::uint32_t atomic_and(std::uint32_t* p, std::uint32_t v) {
  return std::atomic_ref(*p).fetch_and(v);
}
inline std::uint32_t atomic_add(std::uint32_t* p, std::uint32_t v) {
  return std::atomic_ref(*p).fetch_add(v);
}
inline std::uint32_t atomic_exchange(std::uint32_t* p, std::uint32_t v) {
  return std::atomic_ref(*p).exchange(v);
}
inline std::uint32_t load_volatile(const std::uint32_t* p) {
  return std::atomic_ref(*const_cast<std::uint32_t*>(p)).load();
}
inline void store_volatile(std::uint32_t* p, std::uint32_t v) { std::atomic_ref(*p).store(v); }
#if defined(KVSHIM_SANITIZE_THREAD)
#if defined(__clang__)
__attribute__((no_sanitize("thread"), noinline))
#else  // noinline leaves clones that are given the value: read by who calls, and checked there
__attribute__((no_sanitize("thread"), noipa))
#endif
#endif
inline unsigned long long
load_unordered(const unsigned long long* p) {
  return *p;
}
inline void fence_device() { std::atomic_thread_fence(std::memory_order_seq_cst); }
inline void fence_system() { std::atomic_thread_fence(std::memory_order_seq_cst); }
inline void relax() {
  const timespec pause{0, 2000};
  nanosleep(&pause, nullptr);
}
}  // namespace kvshim::kernel_env

#endif
