// The engine's kernels: integers only, so that a GPU and the simulator compute
// the same bits. Those that stand for kernels of vLLM and PyTorch have their
// exact names and parameter lists (facts: engines.md, the trace of vLLM 0.22.1).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "vmm/kernels/kernel_env.h"

#if defined(__CUDACC__)
#define ENGINE_KERNEL __global__ void
#define ENGINE_OWN_KERNEL extern "C" __global__ void
#else
#define ENGINE_KERNEL inline void
#define ENGINE_OWN_KERNEL extern "C" inline void
#endif

namespace kvshim::engine {

KVSHIM_DEVICE std::uint64_t mix(std::uint64_t x) {
  x ^= x >> 33;
  x *= 0xff51afd7ed558ccdULL;
  x ^= x >> 33;
  x *= 0xc4ceb9fe1a85ec53ULL;
  x ^= x >> 33;
  return x;
}

KVSHIM_DEVICE void add_to(unsigned long long* to, unsigned long long value) {
#if defined(__CUDACC__)
  atomicAdd(to, value);
#else
  *to += value;
#endif
}

/// What one token of a step is: written by the host before the step.
struct TokenPlace {
  std::int32_t token = 0;
  std::int32_t position = -1;  // -1: padding, nothing is read or written for it
  std::int32_t sequence = 0;   // row of the block table
  std::int32_t reserved = 0;
};

inline constexpr std::uint32_t kCandidates = 64;

}  // namespace kvshim::engine

// PyTorch's fill: n elements of one byte.
namespace at::native {

template <class T>
struct FillFunctor {
  T value;
};

template <int kVector, class Function, class Array>
ENGINE_KERNEL vectorized_elementwise_kernel(int n, Function f, Array data) {
  namespace env = kvshim::kernel_env;
  constexpr std::uint32_t kBlockWork = 512;
  char* to = *reinterpret_cast<char**>(&data);
  const std::uint32_t begin = env::block_index() * kBlockWork;
  const std::uint32_t total = static_cast<std::uint32_t>(n);
  const std::uint32_t end = begin + kBlockWork < total ? begin + kBlockWork : total;
  for (std::uint32_t i = begin + env::thread_index(); i < end; i += env::thread_count()) {
    to[i] = static_cast<char>(f.value);
  }
}

}  // namespace at::native

// PyTorch's top-k: parameters with room that nobody clears.
namespace at::cuda::detail {

template <class T, class Index>
struct TensorInfo {
  T* data;
  Index sizes[25];
  Index strides[25];
  int dims;
};

}  // namespace at::cuda::detail

namespace at::native::mbtopk {

/// The largest of each slice (k = 1): its value and its index.
template <class T, class Index, int kDim>
ENGINE_KERNEL gatherTopK(at::cuda::detail::TensorInfo<const T, Index> input, Index slice_size,
                         Index, bool, std::uint32_t slices, Index,
                         at::cuda::detail::TensorInfo<T, Index> top, Index,
                         at::cuda::detail::TensorInfo<std::int64_t, Index> indices, Index,
                         std::uint32_t, std::uint32_t, T*, std::uint32_t*, std::uint32_t*,
                         std::uint32_t) {
  namespace env = kvshim::kernel_env;
  const std::uint32_t slice = env::block_index();
  if (slice >= slices || env::thread_index() != 0) return;
  Index best = 0;
  for (Index i = 1; i < slice_size; ++i) {
    if (input.data[slice * slice_size + i] > input.data[slice * slice_size + best]) best = i;
  }
  top.data[slice] = input.data[slice * slice_size + best];
  indices.data[slice] = static_cast<std::int64_t>(best);
}

}  // namespace at::native::mbtopk

// vLLM's writer.
// NOLINTBEGIN(readability-identifier-naming): names of others, parts of the kernels' names
struct __nv_bfloat16 {  // NOLINT(bugprone-reserved-identifier): the name is in the kernel's name
  std::uint16_t bits;
};

namespace vllm {

enum class Fp8KVCacheDataType { kAuto = 0 };

template <class Scalar, class Cache, Fp8KVCacheDataType kType>
ENGINE_KERNEL reshape_and_cache_flash_kernel(
    const Scalar* key, const Scalar* value, Cache* key_cache, Cache* value_cache,
    const std::int64_t* slot_mapping, std::int64_t block_stride, std::int64_t page_stride,
    std::int64_t head_stride, std::int64_t key_stride, std::int64_t value_stride, int num_heads,
    int head_size, int block_size, const float*, const float*, int) {
  namespace env = kvshim::kernel_env;
  const std::int64_t token = env::block_index();
  const std::int64_t slot = slot_mapping[token];
  if (slot < 0) return;
  const std::int64_t block = slot / block_size;
  const std::int64_t offset = slot % block_size;
  const std::uint32_t row = static_cast<std::uint32_t>(num_heads * head_size);
  for (std::uint32_t i = env::thread_index(); i < row; i += env::thread_count()) {
    const std::int64_t head = i / static_cast<std::uint32_t>(head_size);
    const std::int64_t to = block * block_stride + offset * page_stride + head * head_stride +
                            i % static_cast<std::uint32_t>(head_size);
    key_cache[to] = key[token * key_stride + i];
    value_cache[to] = value[token * value_stride + i];
  }
}

}  // namespace vllm

// The reader, as FlashAttention 3 passes its parameters: one large structure by
// value; its name carries the arguments by which a profile knows that it only reads.
namespace cute {

template <int kValue>
struct C {};
template <class... Items>
struct tuple {};

}  // namespace cute

namespace flash {

template <int kStages, class Cluster, class Tile, int kHeadDim, class Element, class Accumulator,
          class Arch, bool kCausal, bool kLocal, bool kSoftcap, bool kVarlen, bool kPagedWithoutTma,
          bool kAppend, bool kQv, bool kRs, bool kOverlap, bool kPackHeads, bool kSplit,
          bool kColumns, class Sink, int kHeadBlock>
struct CollectiveMainloopFwdSm90 {};

template <class Mainloop>
struct FlashAttnFwdSm90 {
  struct Params {
    // Where FlashAttention 3 has them; strides count elements.
    std::uint64_t unused_query;
    std::int32_t unused_tokens, query_dimension, query_heads, unused_batch;  // +8
    std::uint64_t unused_low[10];
    const unsigned char* key_cache;                     // +104
    std::int32_t block_size, dimension, heads, blocks;  // +112
    std::int64_t key_row, key_head, key_block;          // +128
    const unsigned char* value_cache;                   // +152
    std::int32_t value_dimension, unused_padding;       // +160
    std::int64_t value_row, value_head, value_block;    // +168
    std::uint64_t unused_new[27];
    const std::int32_t* block_table;       // +408
    std::int32_t sequences, unused_pages;  // +416
    std::int64_t table_row;                // +424
    std::int32_t block_divisor;            // +432
    std::int32_t unused_division[5];
    std::int32_t heads_divisor;  // +456
    std::int32_t unused_maps[369];
    const std::int32_t* lengths;  // +1936, tokens of each sequence
    std::uint64_t unused_rest[13];
    // The engine's own.
    const kvshim::engine::TokenPlace* places;  // one a token
    const unsigned long long* hidden;
    unsigned long long* output;  // hidden of the next layer, one a token
    std::uint64_t row_bytes;     // bytes of one token's keys; a multiple of 8
    std::uint32_t layer;
    std::int32_t unused_end[151];
  };

  /// output[t] = a sum over every byte of keys and values of the context, in
  /// an order-free form: threads may add in any order.
  static KVSHIM_DEVICE void run(const Params& params) {
    namespace env = kvshim::kernel_env;
    namespace engine = kvshim::engine;
    const std::uint32_t token = env::block_index();
    const engine::TokenPlace place = params.places[token];
    if (place.position < 0) return;
    const std::uint64_t query = engine::mix(params.hidden[token] + params.layer) | 1u;
    const std::uint32_t words = static_cast<std::uint32_t>(params.row_bytes / 8);
    const std::uint32_t total = (static_cast<std::uint32_t>(place.position) + 1) * words;
    const std::int32_t* table =
        params.block_table +
        static_cast<std::uint64_t>(place.sequence) * static_cast<std::uint64_t>(params.table_row);
    const std::uint32_t block_size = static_cast<std::uint32_t>(params.block_size);
    const std::uint64_t block_stride = block_size * params.row_bytes;
    unsigned long long sum = 0;
    for (std::uint32_t i = env::thread_index(); i < total; i += env::thread_count()) {
      const std::uint32_t position = i / words;
      const std::uint32_t word = i % words;
      const std::uint64_t block = static_cast<std::uint64_t>(table[position / block_size]);
      const std::uint64_t at =
          block * block_stride + (position % block_size) * params.row_bytes + word * 8;
      const std::uint64_t weight = (query * (2 * i + 1)) | 1u;
      sum += *reinterpret_cast<const unsigned long long*>(params.key_cache + at) * weight;
      sum += *reinterpret_cast<const unsigned long long*>(params.value_cache + at) *
             (weight ^ 0x9e3779b97f4a7c14ULL);
    }
    engine::add_to(params.output + token, sum);
  }
};

template <class Kernel>
struct enable_sm90_or_later : Kernel {};

}  // namespace flash

namespace cutlass {

namespace arch {
struct Sm90 {};
}  // namespace arch

template <class Operator>
ENGINE_KERNEL device_kernel(const typename Operator::Params params) {
  Operator::run(params);
}

}  // namespace cutlass

// NOLINTEND(readability-identifier-naming)

// The engine's own: embedding, projection, candidates, and a kernel that no
// profile knows.

/// hidden[t] from the token and its position; clears output[t].
ENGINE_OWN_KERNEL kvshim_engine_embed(const kvshim::engine::TokenPlace* places,
                                      unsigned long long* hidden, unsigned long long* output) {
  namespace env = kvshim::kernel_env;
  if (env::thread_index() != 0) return;
  const kvshim::engine::TokenPlace place = places[env::block_index()];
  hidden[env::block_index()] =
      kvshim::engine::mix(static_cast<std::uint64_t>(place.token) * 1000003u +
                          static_cast<std::uint64_t>(place.position));
  output[env::block_index()] = 0;
}

/// Keys and values of one layer from hidden[t].
ENGINE_OWN_KERNEL kvshim_engine_project(const unsigned long long* hidden, std::uint16_t* keys,
                                        std::uint16_t* values, std::uint32_t row,
                                        std::uint32_t layer) {
  namespace env = kvshim::kernel_env;
  const std::uint64_t token = env::block_index();
  for (std::uint32_t i = env::thread_index(); i < row; i += env::thread_count()) {
    const std::uint64_t bits =
        kvshim::engine::mix(hidden[token] + (static_cast<std::uint64_t>(layer) << 32) + i);
    keys[token * row + i] = static_cast<std::uint16_t>(bits);
    values[token * row + i] = static_cast<std::uint16_t>(bits >> 16);
  }
}

/// Before the next layer: hidden[t] takes output[t] in, which is cleared.
ENGINE_OWN_KERNEL kvshim_engine_advance(unsigned long long* hidden, unsigned long long* output) {
  namespace env = kvshim::kernel_env;
  if (env::thread_index() != 0) return;
  const std::uint32_t token = env::block_index();
  hidden[token] = kvshim::engine::mix(hidden[token] ^ output[token]);
  output[token] = 0;
}

/// kCandidates scores a token, whole numbers that a float holds exactly.
ENGINE_OWN_KERNEL kvshim_engine_scores(const unsigned long long* hidden, float* scores) {
  namespace env = kvshim::kernel_env;
  const std::uint32_t token = env::block_index();
  for (std::uint32_t i = env::thread_index(); i < kvshim::engine::kCandidates;
       i += env::thread_count()) {
    const std::uint64_t bits = kvshim::engine::mix(hidden[token] + i * 7919u);
    scores[token * kvshim::engine::kCandidates + i] = static_cast<float>(bits & 0xffffffu);
  }
}

/// No profile knows it: writes `words` words at `to`, from what stood there.
ENGINE_OWN_KERNEL kvshim_engine_mystery(unsigned long long* to, std::uint32_t words,
                                        unsigned long long seed) {
  namespace env = kvshim::kernel_env;
  for (std::uint32_t i = env::thread_index(); i < words; i += env::thread_count()) {
    to[i] = kvshim::engine::mix(to[i] + seed + i);
  }
}

namespace kvshim::engine {

using Mainloop =
    flash::CollectiveMainloopFwdSm90<2, cute::tuple<cute::C<1>, cute::C<1>, cute::C<1>>,
                                     cute::tuple<cute::C<128>, cute::C<128>, cute::C<64>>, 64,
                                     __nv_bfloat16, float, cutlass::arch::Sm90, true, false, false,
                                     true, true, false, false, true, true, true, false, false,
                                     __nv_bfloat16, 1>;
using Attention = flash::enable_sm90_or_later<flash::FlashAttnFwdSm90<Mainloop>>;
static_assert(sizeof(Attention::Params) == 2688);
static_assert(offsetof(Attention::Params, key_cache) == 104);
static_assert(offsetof(Attention::Params, value_cache) == 152);
static_assert(offsetof(Attention::Params, block_table) == 408);
static_assert(offsetof(Attention::Params, heads_divisor) == 456);
static_assert(offsetof(Attention::Params, lengths) == 1936);
using Bytes = std::array<char*, 1>;
using Filler = at::native::FillFunctor<signed char>;

#if !defined(__CUDACC__)
// Template arguments as names, for tables of functions.
inline constexpr auto kFillFunction = &at::native::vectorized_elementwise_kernel<4, Filler, Bytes>;
inline constexpr auto kTopKFunction = &at::native::mbtopk::gatherTopK<float, unsigned, 2>;
inline constexpr auto kWriterFunction =
    &vllm::reshape_and_cache_flash_kernel<__nv_bfloat16, __nv_bfloat16,
                                          vllm::Fp8KVCacheDataType::kAuto>;
inline constexpr auto kReaderFunction = &cutlass::device_kernel<Attention>;
#endif

}  // namespace kvshim::engine
