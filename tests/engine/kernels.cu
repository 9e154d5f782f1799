// The engine's kernels for the GPU. Templates are instantiated here so that
// their entries carry the names of the kernels they stand for.
#include "tests/engine/kernels.cuh"

template __global__ void
at::native::vectorized_elementwise_kernel<4, kvshim::engine::Filler, kvshim::engine::Bytes>(
    int, kvshim::engine::Filler, kvshim::engine::Bytes);
template __global__ void at::native::mbtopk::gatherTopK<float, unsigned, 2>(
    at::cuda::detail::TensorInfo<const float, unsigned>, unsigned, unsigned, bool, std::uint32_t,
    unsigned, at::cuda::detail::TensorInfo<float, unsigned>, unsigned,
    at::cuda::detail::TensorInfo<std::int64_t, unsigned>, unsigned, std::uint32_t, std::uint32_t,
    float*, std::uint32_t*, std::uint32_t*, std::uint32_t);
template __global__ void
vllm::reshape_and_cache_flash_kernel<__nv_bfloat16, __nv_bfloat16, vllm::Fp8KVCacheDataType::kAuto>(
    const __nv_bfloat16*, const __nv_bfloat16*, __nv_bfloat16*, __nv_bfloat16*, const std::int64_t*,
    std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t, int, int, int,
    const float*, const float*, int);
template __global__ void cutlass::device_kernel<kvshim::engine::Attention>(
    const kvshim::engine::Attention::Params);
