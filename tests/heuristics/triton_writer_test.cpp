// vLLM's Triton writer, whose block and element size are compiled in: each layout
// of a cache that vLLM has or had, as its strides show it at a launch.
#include <gtest/gtest.h>

#include <initializer_list>
#include <utility>
#include <vector>

#include "heuristics/kernel_catalog.h"
#include "tests/heuristics/launch_values.h"

namespace kvshim::heuristics {
namespace {

constexpr char kName[] = "reshape_and_cache_kernel_flash";

/// What a launch does not show, but for what can be told from the strides.
struct Sizes {
  std::int64_t block = 16, heads = 8, dim = 64, element = 2;
  std::int64_t blocks = 1000, layers = 1;
  std::int64_t padded = 2;  // halves of the bytes that a block has: 2 is none more
};

/// Strides as torch gives them for [blocks, block, heads, dim], in elements.
struct Cache {
  std::int64_t block_stride = 0, page_stride = 0, head_stride = 0, to_values = 0;
};

using Layout = Cache (*)(const Sizes&);
std::int64_t block_of(const Sizes& s, std::int64_t elements) {
  return elements * s.layers * s.padded / 2;
}
// L layers, B blocks, H heads, N tokens of a block, D elements of K or V; K is 2.
Cache blocks_2_nhd(const Sizes& s) {  // vLLM 0.11 to 0.25; with layers: B L 2 N H D
  const std::int64_t half = s.block * s.heads * s.dim;
  return {block_of(s, 2 * half), s.heads * s.dim, s.dim, half};
}
Cache blocks_2_hnd(const Sizes& s) {
  const std::int64_t half = s.block * s.heads * s.dim;
  return {block_of(s, 2 * half), s.dim, s.block * s.dim, half};
}
Cache blocks_2_h_layers_nd(const Sizes& s) {
  const std::int64_t half = s.heads * s.layers * s.block * s.dim;
  return {s.padded * half, s.dim, s.layers * s.block * s.dim, half};
}
Cache halves_nhd(const Sizes& s) {
  const std::int64_t block = s.block * s.heads * s.dim;
  return {block, s.heads * s.dim, s.dim, s.blocks * block};
}
Cache halves_hnd(const Sizes& s) {
  const std::int64_t block = s.block * s.heads * s.dim;
  return {block, s.dim, s.block * s.dim, s.blocks * block};
}
Cache blocks_nh2d(const Sizes& s) {  // the default from 0.26 on: LBNHC; with layers BLNHC
  const std::int64_t row = 2 * s.dim * s.heads;
  return {block_of(s, s.block * row), row, 2 * s.dim, s.dim};
}
Cache blocks_hn2d(const Sizes& s) {  // LBHNC and BLHNC
  const std::int64_t head = s.block * 2 * s.dim;
  return {block_of(s, s.heads * head), 2 * s.dim, head, s.dim};
}
Cache blocks_h_layers_n2d(const Sizes& s) {  // BHLNC
  const std::int64_t head = s.layers * s.block * 2 * s.dim;
  return {s.heads * head * s.padded / 2, 2 * s.dim, head, s.dim};
}
Cache heads_blocks_n2d(const Sizes& s) {  // LHBNC
  const std::int64_t block = s.block * 2 * s.dim;
  return {block, 2 * s.dim, s.blocks * block, s.dim};
}
constexpr Layout kLayouts[] = {blocks_2_nhd, blocks_2_hnd,        blocks_2_h_layers_nd,
                               halves_nhd,   halves_hnd,          blocks_nh2d,
                               blocks_hn2d,  blocks_h_layers_n2d, heads_blocks_n2d};

LaunchBuilder pointers(const Cache& cache, const Sizes& sizes) {
  LaunchBuilder launch;
  launch.add(kElsewhere).add(kElsewhere + 0x1000).add(kPool);
  launch.add(kPool + static_cast<std::uint64_t>(cache.to_values * sizes.element));
  launch.add(kElsewhere + 0x2000).add(kElsewhere + 0x3000).add(kElsewhere + 0x4000);
  launch.add(std::int64_t{3072}).add(std::int64_t{3072});  // of the keys and values written
  return launch;
}
constexpr std::uint64_t kNoScratch = 0;
/// As from 0.14 on.
LaunchBuilder launch_of(Layout layout, const Sizes& sizes, std::int64_t dim_stride = 0) {
  const Cache cache = layout(sizes);
  LaunchBuilder launch = pointers(cache, sizes);
  launch.add(cache.block_stride).add(cache.head_stride).add(dim_stride).add(dim_stride);
  launch.add(cache.page_stride).add(kNoScratch).add(kNoScratch).grid(37, 3);
  return launch;
}
/// As in 0.11 to 0.13.
LaunchBuilder early_launch_of(const Sizes& sizes, int scratch, Layout layout = blocks_2_nhd) {
  const Cache cache = layout(sizes);
  LaunchBuilder launch = pointers(cache, sizes);
  launch.add(cache.block_stride).add(cache.page_stride).grid(37);
  for (int i = 0; i < scratch; ++i) launch.add(kNoScratch);
  return launch;
}

std::optional<WriterCall> call_of(const LaunchBuilder& launch) {
  const auto kernel = catalog().classify(kName, launch.layout());
  EXPECT_EQ(kernel->role, KernelRole::kWriter) << kernel->reason;
  return kernel->writer_call(launch.values());
}
bool is_refused(Layout layout, const Sizes& sizes) { return !call_of(launch_of(layout, sizes)); }

void expect_destinations(const std::optional<WriterCall>& call, std::uint64_t to_values,
                         const WriterCall::Destination& expected, std::uint64_t block = 16) {
  ASSERT_TRUE(call);
  EXPECT_EQ(call->slots, kElsewhere + 0x2000);
  EXPECT_EQ(call->slot_bytes, 8u);
  EXPECT_EQ(call->count, 37u) << "the grid's other dimension counts pieces of a token";
  EXPECT_EQ(call->skip_below, 0);
  EXPECT_EQ(call->block, block);
  ASSERT_EQ(call->destinations.size(), 2u);
  EXPECT_EQ(call->destinations[0].base, kPool);
  EXPECT_EQ(call->destinations[1].base, kPool + to_values);
  for (const WriterCall::Destination& destination : call->destinations) {
    EXPECT_EQ(destination.block_stride, expected.block_stride);
    EXPECT_EQ(destination.slot_stride, expected.slot_stride);
    EXPECT_EQ(destination.length, expected.length);
  }
}

TEST(TritonWriter, KAndVOfABlockTellElementAndBlock) {
  expect_destinations(call_of(launch_of(blocks_2_nhd, {})), 16384, {0, 32768, 1024, 1024});
  expect_destinations(call_of(launch_of(blocks_2_nhd, {.element = 1})), 8192, {0, 16384, 512, 512});
  // A hybrid model's: an odd multiple of 16.
  expect_destinations(call_of(launch_of(blocks_2_nhd, {.block = 528, .heads = 1, .dim = 128})),
                      135168, {0, 270336, 256, 256}, 528);
}

TEST(TritonWriter, KAndVOfAHeadTellElementAndBlock) {
  for (const std::int64_t element : {1, 2, 4}) {
    const auto bytes = static_cast<std::uint64_t>(element);
    const Sizes sizes = {.element = element};
    expect_destinations(call_of(launch_of(blocks_nh2d, sizes)), 64 * bytes,
                        {0, 16384 * bytes, 1024 * bytes, (7 * 128 + 64) * bytes});
    expect_destinations(call_of(launch_of(blocks_hn2d, sizes)), 64 * bytes,
                        {0, 16384 * bytes, 128 * bytes, (7 * 2048 + 64) * bytes});
  }
  // Padding of less than a block changes nothing.
  expect_destinations(call_of(launch_of(blocks_nh2d, {.padded = 3})), 128,
                      {0, 49152, 2048, 2 * (7 * 128 + 64)});
}

TEST(TritonWriter, TheEarlyFormsHaveOneOrTwoScratchPointers) {
  for (const int scratch : {1, 2}) {
    expect_destinations(call_of(early_launch_of({}, scratch)), 16384, {0, 32768, 1024, 1024});
    EXPECT_FALSE(call_of(early_launch_of({.block = 32}, scratch)));
    EXPECT_FALSE(call_of(early_launch_of({.padded = 3}, scratch)));
    EXPECT_FALSE(call_of(early_launch_of({}, scratch, halves_nhd)));
  }
}

TEST(TritonWriter, OtherParameterListsDoNotMatch) {
  const LaunchBuilder whole = launch_of(blocks_2_nhd, {});
  for (std::size_t count = 0; count < 20; ++count) {
    std::vector<ParamLayout> params;
    for (std::size_t i = 0; i < count; ++i) params.push_back({i * 8, 8});
    const auto kernel = catalog().classify(kName, params);
    const bool known = count == 12 || count == 13 || count == 16;
    EXPECT_EQ(kernel->role == KernelRole::kWriter, known) << count << ": " << kernel->reason;
    if (known) continue;
    EXPECT_EQ(kernel->words.size(), count) << "any of them may be an address";
  }
  std::vector<ParamLayout> narrow = whole.layout();
  narrow[9].size = 4;
  EXPECT_EQ(catalog().classify(kName, narrow)->role, KernelRole::kUnknown);
  for (const char* other : {"reshape_and_cache_kernel_flash_diffkv",
                            "_reshape_cache_per_token_head", "my_reshape_and_cache_kernel_flash"}) {
    EXPECT_EQ(catalog().classify(other, whole.layout())->role, KernelRole::kUnknown) << other;
  }
}

TEST(TritonWriter, WhatTheStridesCanNotTellIsRefused) {
  EXPECT_TRUE(is_refused(halves_nhd, {})) << "a byte in twice the blocks looks the same";
  EXPECT_TRUE(is_refused(halves_hnd, {}));
  EXPECT_TRUE(is_refused(halves_nhd, {.block = 32, .element = 1, .blocks = 2}));
  EXPECT_TRUE(is_refused(blocks_2_nhd, {.block = 32})) << "as 16 of 4 bytes, padded";
  EXPECT_TRUE(is_refused(blocks_2_nhd, {.element = 4})) << "as two blocks with K and V apart";
  EXPECT_TRUE(is_refused(blocks_2_nhd, {.layers = 2})) << "as 32 of 1 byte";
  EXPECT_TRUE(is_refused(blocks_2_hnd, {})) << "as 1 byte for twice the heads, unpadded";
  EXPECT_TRUE(is_refused(blocks_2_h_layers_nd, {.layers = 4}));
  EXPECT_TRUE(is_refused(blocks_nh2d, {.block = 32})) << "as 16 for two layers";
  EXPECT_TRUE(is_refused(blocks_nh2d, {.layers = 2}));
  EXPECT_TRUE(is_refused(blocks_hn2d, {.block = 32}));
  EXPECT_TRUE(is_refused(blocks_h_layers_n2d, {.layers = 2}));
  EXPECT_TRUE(is_refused(heads_blocks_n2d, {}));
  // ROCm's K of [blocks, heads, dim / x, block, x] has strides between dimensions.
  EXPECT_FALSE(call_of(launch_of(blocks_2_nhd, {}, 16)));
  EXPECT_FALSE(call_of(launch_of(blocks_nh2d, {}, 16)));
  EXPECT_FALSE(call_of(launch_of(blocks_hn2d, {}, 16)));
}

TEST(TritonWriter, NonsenseIsRefused) {
  const auto changed = [](std::size_t param, std::uint64_t value, Layout layout = blocks_nh2d) {
    LaunchBuilder launch = launch_of(layout, {});
    launch.put(param, 0, value);
    return call_of(launch);
  };
  EXPECT_FALSE(changed(3, kPool)) << "values where the keys are";
  EXPECT_FALSE(changed(3, kPool - 128));
  EXPECT_FALSE(changed(3, 0));
  EXPECT_FALSE(changed(3, kPool + 129)) << "no whole number of elements apart";
  EXPECT_FALSE(changed(3, kPool + 129, blocks_hn2d));
  EXPECT_FALSE(changed(3, kPool + 16385, blocks_2_nhd));
  for (const std::size_t stride : {9u, 10u, 13u}) {
    EXPECT_FALSE(changed(stride, 0));
    EXPECT_FALSE(changed(stride, static_cast<std::uint64_t>(-1024)));
    EXPECT_FALSE(changed(stride, std::uint64_t{1} << 62));
  }
}

/// Whether all that the kernel writes for `slot` lies in what the call says.
bool covers(const WriterCall& call, const Cache& cache, const Sizes& sizes, std::int64_t slot) {
  const auto offset = [](std::int64_t elements, std::int64_t bytes) {
    return static_cast<std::uint64_t>(elements * bytes);
  };
  const std::uint64_t block = static_cast<std::uint64_t>(slot) / call.block,
                      in_block = static_cast<std::uint64_t>(slot) % call.block;
  for (std::size_t kind = 0; kind < 2; ++kind) {
    const WriterCall::Destination& to = call.destinations[kind];
    const std::uint64_t from = to.base + block * to.block_stride + in_block * to.slot_stride;
    for (std::int64_t head = 0; head < sizes.heads; ++head) {
      const std::int64_t at = slot / sizes.block * cache.block_stride +
                              slot % sizes.block * cache.page_stride + head * cache.head_stride +
                              (kind == 0 ? 0 : cache.to_values);
      const std::uint64_t written = kPool + offset(at, sizes.element);
      if (written < from) return false;
      if (written + offset(sizes.dim, sizes.element) > from + to.length) return false;
    }
  }
  return true;
}

std::vector<Sizes> all_sizes() {
  std::vector<Sizes> all(1);
  const auto vary = [&all](std::int64_t Sizes::*which, std::initializer_list<std::int64_t> to) {
    std::vector<Sizes> varied;
    for (Sizes sizes : all) {
      for (const std::int64_t value : to) {
        sizes.*which = value;
        varied.push_back(sizes);
      }
    }
    all = std::move(varied);
  };
  vary(&Sizes::block, {16, 32, 48, 64, 80, 128, 528, 1056});
  vary(&Sizes::heads, {1, 2, 3, 8, 16});
  vary(&Sizes::dim, {32, 64, 80, 128});
  vary(&Sizes::element, {1, 2, 4});
  vary(&Sizes::layers, {1, 2, 3, 4, 8});
  vary(&Sizes::padded, {2, 3, 4, 5, 8});
  vary(&Sizes::blocks, {2, 3, 1000});
  return all;
}

TEST(TritonWriter, NoLayoutIsTakenForAnother) {
  const auto kernel = catalog().classify(kName, launch_of(blocks_2_nhd, {}).layout());
  std::vector<int> accepted;
  for (const Layout layout : kLayouts) {
    accepted.push_back(0);
    for (const Sizes& sizes : all_sizes()) {
      const LaunchBuilder launch = launch_of(layout, sizes);
      const std::optional<WriterCall> call = kernel->writer_call(launch.values());
      if (!call) continue;
      ++accepted.back();
      for (const std::int64_t slot : {std::int64_t{0}, sizes.block - 1, sizes.block,
                                      2 * sizes.block - 1, sizes.blocks * sizes.block - 1}) {
        ASSERT_TRUE(covers(*call, layout(sizes), sizes, slot))
            << "layout " << accepted.size() << ", block " << sizes.block << ", heads "
            << sizes.heads << ", dim " << sizes.dim << ", element " << sizes.element << ", layers "
            << sizes.layers << ", padded " << sizes.padded << ", blocks " << sizes.blocks
            << ", slot " << slot;
      }
    }
  }
  // Of the three that are known, all that they hold; of the others just what is one of
  // these: layers between the heads, of which there is one.
  const int shapes = 5 * 4 * 3, all_but_4_bytes = 5 * 4 * 2 * 3;
  EXPECT_EQ(accepted[0], all_but_4_bytes * 4) << "blocks of 16, 48, 80, 528";
  EXPECT_EQ(accepted[5], shapes * 3 * 2) << "unpadded, and half as much again";
  EXPECT_EQ(accepted[6], shapes * 3 * 5 * 5) << "any number of layers, any padding";
  EXPECT_EQ(accepted[7], shapes * 3 * 5);
  for (const std::size_t refused : {1u, 2u, 3u, 4u, 8u}) EXPECT_EQ(accepted[refused], 0);
}

}  // namespace
}  // namespace kvshim::heuristics
