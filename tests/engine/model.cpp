#include "tests/engine/model.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

extern "C" const char kvshim_ptx_kernels[];

namespace kvshim::engine {
namespace {

constexpr unsigned kThreads = 128;

template <class... Params>
void launch(CUfunction kernel, unsigned blocks, unsigned threads, CUstream stream,
            Params... params) {
  void* pointers[] = {const_cast<void*>(static_cast<const void*>(&params))...};
  ENGINE_CALL(cuLaunchKernel, kernel, blocks, 1, 1, threads, 1, 1, 0, stream, pointers, nullptr);
}

CUdeviceptr allocate(std::size_t bytes) {
  CUdeviceptr address = 0;
  ENGINE_CALL(cuMemAlloc, &address, bytes);
  return address;
}

template <class T>
Mirror<T> make_mirror(std::size_t count) {
  Mirror<T> mirror;
  mirror.count = count;
  void* host = nullptr;
  ENGINE_CALL(cuMemHostAlloc, &host, count * sizeof(T), 0);
  std::memset(host, 0, count * sizeof(T));
  mirror.host = static_cast<T*>(host);
  mirror.device = allocate(count * sizeof(T));
  return mirror;
}

template <class T>
void free_mirror(Mirror<T>& mirror) {
  ENGINE_CALL(cuMemFree, mirror.device);
  ENGINE_CALL(cuMemFreeHost, mirror.host);
}

template <class T>
void send(const Mirror<T>& mirror, std::size_t count, CUstream stream) {
  ENGINE_CALL(cuMemcpyHtoDAsync, mirror.device, mirror.host, count * sizeof(T), stream);
}

template <class T>
void fetch(const Mirror<T>& mirror, std::size_t count, CUstream stream) {
  ENGINE_CALL(cuMemcpyDtoHAsync, mirror.host, mirror.device, count * sizeof(T), stream);
}

}  // namespace

Model::Model(const Shape& shape) : shape_(shape) {
  ENGINE_CALL(cuModuleLoadData, &module_, kvshim_ptx_kernels);
  for (std::size_t i = 0; i < kernels_.size(); ++i) {
    ENGINE_CALL(cuModuleGetFunction, &kernels_[i], module_, kKernelNames[i]);
  }
  for (unsigned layer = 0; layer < shape_.layers; ++layer) {
    pools_.push_back(allocate(shape_.pool_bytes));
    const std::size_t half = shape_.pool_bytes / 2;
    for (const std::size_t begin : {std::size_t{0}, half}) {
      const int count = static_cast<int>(begin == 0 ? half : shape_.pool_bytes - half);
      Bytes to{};
      to[0] = reinterpret_cast<char*>(pools_.back() + begin);  // NOLINT(performance-no-int-to-ptr)
      launch(kernel(KernelName::kFill), static_cast<unsigned>((count + 511) / 512), kThreads,
             nullptr, count, Filler{0}, to);
    }
  }
  ENGINE_CALL(cuCtxSynchronize, );
}

Model::~Model() {
  for (const CUdeviceptr pool : pools_) ENGINE_CALL(cuMemFree, pool);
  ENGINE_CALL(cuModuleUnload, module_);
}

std::uint64_t Model::disturb_tail(CUstream stream, std::uint64_t seed) {
  constexpr std::uint32_t kWords = kTailBytes / 8;
  const CUdeviceptr tail = pools_[0] + shape_.pool_bytes - kTailBytes;
  launch(kernel(KernelName::kMystery), 1, kThreads, stream, tail, kWords,
         static_cast<unsigned long long>(seed));
  ENGINE_CALL(cuStreamSynchronize, stream);
  std::vector<std::uint64_t> words(kWords);
  ENGINE_CALL(cuMemcpyDtoH, words.data(), tail, kTailBytes);
  std::uint64_t sum = 0;
  for (const std::uint64_t word : words) sum = sum * 31 + word;
  return sum;
}

Worker::Worker(Model& model, unsigned tokens, unsigned sequences, unsigned table_stride)
    : model_(model), table_stride_(table_stride) {
  ENGINE_CALL(cuStreamCreate, &stream_, CU_STREAM_NON_BLOCKING);
  places_ = make_mirror<TokenPlace>(tokens);
  slots_ = make_mirror<std::int64_t>(tokens);
  table_ = make_mirror<std::int32_t>(std::size_t{sequences} * table_stride);
  lengths_ = make_mirror<std::int32_t>(sequences);
  hidden_ = make_mirror<unsigned long long>(tokens);
  best_ = make_mirror<std::int64_t>(tokens);
  output_ = allocate(tokens * 8u);
  keys_ = allocate(tokens * model.shape().row_bytes());
  values_ = allocate(tokens * model.shape().row_bytes());
  scores_ = allocate(std::size_t{tokens} * kCandidates * 4);
  top_ = allocate(tokens * 4u);
}

Worker::~Worker() {
  for (const auto& [tokens, graph] : graphs_) ENGINE_CALL(cuGraphExecDestroy, graph);
  for (const CUdeviceptr buffer : {output_, keys_, values_, scores_, top_}) {
    ENGINE_CALL(cuMemFree, buffer);
  }
  free_mirror(places_);
  free_mirror(slots_);
  free_mirror(table_);
  free_mirror(lengths_);
  free_mirror(hidden_);
  free_mirror(best_);
  ENGINE_CALL(cuStreamDestroy, stream_);
}

void Worker::launch_kernels(unsigned tokens) {
  const Shape& shape = model_.shape();
  const unsigned row = shape.heads * shape.head_size;
  launch(model_.kernel(KernelName::kEmbed), tokens, 1, stream_, places_.device, hidden_.device,
         output_);
  for (unsigned layer = 0; layer < shape.layers; ++layer) {
    const CUdeviceptr key_cache = model_.pool(layer);
    const CUdeviceptr value_cache = key_cache + shape.pool_bytes / 2;
    launch(model_.kernel(KernelName::kProject), tokens, kThreads, stream_, hidden_.device, keys_,
           values_, row, layer);
    // [2, blocks, block, heads, dim], as vLLM 0.22 lays it out; strides in elements.
    launch(model_.kernel(KernelName::kWriter), tokens, std::min(row, 512u), stream_, keys_, values_,
           key_cache, value_cache, slots_.device, static_cast<std::int64_t>(row) * shape.block_size,
           static_cast<std::int64_t>(row), static_cast<std::int64_t>(shape.head_size),
           static_cast<std::int64_t>(row), static_cast<std::int64_t>(row),
           static_cast<int>(shape.heads), static_cast<int>(shape.head_size),
           static_cast<int>(shape.block_size), CUdeviceptr{0}, CUdeviceptr{0}, 0);
    Attention::Params attention{};
    const auto at = [](CUdeviceptr address) { return reinterpret_cast<void*>(address); };  // NOLINT
    attention.places = static_cast<const TokenPlace*>(at(places_.device));
    attention.hidden = static_cast<const unsigned long long*>(at(hidden_.device));
    attention.output = static_cast<unsigned long long*>(at(output_));
    attention.block_table = static_cast<const std::int32_t*>(at(table_.device));
    attention.lengths = static_cast<const std::int32_t*>(at(lengths_.device));
    attention.sequences = static_cast<std::int32_t>(lengths_.count);
    attention.table_row = table_stride_;
    attention.block_size = attention.block_divisor = static_cast<std::int32_t>(shape.block_size);
    attention.blocks = static_cast<std::int32_t>(shape.pool_bytes / 2 / shape.block_bytes());
    attention.heads = attention.query_heads = static_cast<std::int32_t>(shape.heads);
    attention.heads_divisor = 1;
    attention.dimension = attention.query_dimension = attention.value_dimension =
        static_cast<std::int32_t>(shape.head_size);
    attention.key_row = attention.value_row = row;
    attention.key_head = attention.value_head = shape.head_size;
    attention.key_block = attention.value_block = std::int64_t{row} * shape.block_size;
    attention.row_bytes = shape.row_bytes();
    attention.layer = layer;
    attention.key_cache = static_cast<const unsigned char*>(at(key_cache));
    attention.value_cache = static_cast<const unsigned char*>(at(value_cache));
    launch(model_.kernel(KernelName::kReader), tokens, kThreads, stream_, attention);
    launch(model_.kernel(KernelName::kAdvance), tokens, 1, stream_, hidden_.device, output_);
  }
  launch(model_.kernel(KernelName::kScores), tokens, kCandidates, stream_, hidden_.device, scores_);
  // Structures as PyTorch leaves them: old words, here of a pool, in the room
  // that a tensor of two dimensions does not use.
  at::cuda::detail::TensorInfo<const float, unsigned> input{};
  at::cuda::detail::TensorInfo<float, unsigned> top{};
  at::cuda::detail::TensorInfo<std::int64_t, unsigned> indices{};
  const CUdeviceptr old = model_.pool(0) + shape.pool_bytes / 4;
  std::memcpy(reinterpret_cast<char*>(&top) + 152, &old, sizeof old);
  const auto put = [](auto& info, CUdeviceptr address) {
    std::memcpy(static_cast<void*>(&info), &address, sizeof address);
  };
  put(input, scores_);
  put(top, top_);
  put(indices, best_.device);
  launch(model_.kernel(KernelName::kTopK), tokens, 32, stream_, input, kCandidates, 1u, true,
         tokens, 1u, top, 1u, indices, 1u, 1u, 1u, CUdeviceptr{0}, CUdeviceptr{0}, CUdeviceptr{0},
         tokens);
}

void Worker::submit(unsigned tokens, bool as_graph) {
  send(places_, tokens, stream_);
  send(slots_, tokens, stream_);
  send(table_, table_.count, stream_);
  std::fill_n(lengths_.host, lengths_.count, 0);
  for (unsigned token = 0; token < tokens; ++token) {
    const TokenPlace& place = places_.host[token];
    std::int32_t& length = lengths_.host[place.sequence];
    length = std::max(length, place.position + 1);
  }
  send(lengths_, lengths_.count, stream_);
  if (as_graph) {
    CUgraphExec& graph = graphs_[tokens];
    if (graph == nullptr) {
      CUgraph captured = nullptr;
      ENGINE_CALL(cuStreamBeginCapture, stream_, CU_STREAM_CAPTURE_MODE_GLOBAL);
      launch_kernels(tokens);
      ENGINE_CALL(cuStreamEndCapture, stream_, &captured);
      ENGINE_CALL(cuGraphInstantiateWithFlags, &graph, captured, 0);
      ENGINE_CALL(cuGraphDestroy, captured);
    }
    ENGINE_CALL(cuGraphLaunch, graph, stream_);
  } else {
    launch_kernels(tokens);
  }
  fetch(hidden_, tokens, stream_);
  fetch(best_, tokens, stream_);
}

void Worker::wait() { ENGINE_CALL(cuStreamSynchronize, stream_); }

}  // namespace kvshim::engine
