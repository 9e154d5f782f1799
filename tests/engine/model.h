// The device side: pools, buffers of the steps, and the kernels of one step.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "tests/engine/driver_functions.h"
#include "tests/engine/kernel_names.h"
#include "tests/engine/kernels.cuh"

namespace kvshim::engine {

struct Shape {
  unsigned layers = 0, block_size = 0, heads = 0, head_size = 0;
  std::size_t pool_bytes = 0;  // a layer; keys in the first half, values in the second
  unsigned blocks = 0;
  std::uint64_t row_bytes() const { return std::uint64_t{heads} * head_size * 2; }
  std::uint64_t block_bytes() const { return row_bytes() * block_size; }
};

/// Pinned host memory with its copy on the device.
template <class T>
struct Mirror {
  T* host = nullptr;
  CUdeviceptr device = 0;
  std::size_t count = 0;
};

class Model;

/// One stream with its step buffers; steps of different workers may overlap.
class Worker {
 public:
  /// `tokens`: the most tokens of a step; `sequences` and `table_stride`: the
  /// block table's rows and their length.
  Worker(Model& model, unsigned tokens, unsigned sequences, unsigned table_stride);
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // To be filled before submit().
  TokenPlace* places() { return places_.host; }
  std::int64_t* slots() { return slots_.host; }
  std::int32_t* table_row(unsigned sequence) {
    return table_.host + std::size_t{sequence} * table_stride_;
  }
  // Valid after wait().
  std::int64_t best(unsigned token) const { return best_.host[token]; }
  std::uint64_t hidden(unsigned token) const { return hidden_.host[token]; }

  /// One step over the first `tokens` places; `as_graph`: captured at the
  /// first use of this many tokens, replayed afterwards.
  void submit(unsigned tokens, bool as_graph);
  void wait();
  CUstream stream() const { return stream_; }

 private:
  void launch_kernels(unsigned tokens);

  Model& model_;
  CUstream stream_ = nullptr;
  unsigned table_stride_;
  Mirror<TokenPlace> places_;
  Mirror<std::int64_t> slots_;
  Mirror<std::int32_t> table_;
  Mirror<std::int32_t> lengths_;
  Mirror<unsigned long long> hidden_;
  Mirror<std::int64_t> best_;
  CUdeviceptr output_ = 0, keys_ = 0, values_ = 0, scores_ = 0, top_ = 0;
  std::map<unsigned, CUgraphExec> graphs_;
};

class Model {
 public:
  /// Loads the kernels, allocates the pools one a layer and fills them with
  /// zero, each in two launches, as PyTorch does.
  explicit Model(const Shape& shape);
  ~Model();
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  const Shape& shape() const { return shape_; }
  CUdeviceptr pool(unsigned layer) const { return pools_[layer]; }
  CUfunction kernel(KernelName name) const { return kernels_[static_cast<std::size_t>(name)]; }

  /// A kernel that no profile knows changes the last bytes of the first
  /// pool, which no block uses; returns a sum over what stands there then.
  std::uint64_t disturb_tail(CUstream stream, std::uint64_t seed);
  /// Bytes at the end of a pool that disturb_tail() uses.
  static constexpr std::size_t kTailBytes = 64u << 10;

 private:
  Shape shape_;
  CUmodule module_ = nullptr;
  std::array<CUfunction, std::size(kKernelNames)> kernels_{};
  std::vector<CUdeviceptr> pools_;
};

}  // namespace kvshim::engine
