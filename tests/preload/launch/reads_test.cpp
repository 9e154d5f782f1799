// Readers: when their block table is looked at, and what is told to the gate.
#include <gmock/gmock.h>

#include "preload/launch.h"
#include "tests/preload/launch/graph_fixture.h"

namespace kvshim::preload::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

const std::string kFlash3 =
    "_ZN7cutlass13device_kernelIN5flash20enable_sm90_or_laterINS1_16FlashAttnFwdSm90INS1_25Collecti"
    "veMainloopFwdSm90ILi2EN4cute5tupleIJNS5_1CILi1EEES8_S8_EEENS6_IJNS7_ILi128EEESA_NS7_ILi64EEEEE"
    "ELi64E13__nv_bfloat16fNS_4arch4Sm90ELb1ELb0ELb0ELb1ELb1ELb0ELb0ELb1ELb1ELb1ELb0ELb0ESD_Li1EEEE"
    "EEEEEvNT_6ParamsE";
// void peek(float const*, float*), in no profile.
const std::string kPeek = "_Z4peekPKfPf";

class Reads : public Graph {
 protected:
  Reads() {
    reader_ = driver().add_function(0x1300, kFlash3, {2688});
    peek_ = driver().add_function(0x1400, kPeek, {8, 8});
    gate().wants_read = true;
  }
  /// 5 sequences, rows of 40 ids, blocks of 16 tokens, 2 heads of 64 elements of two bytes;
  /// keys from the pool's start, values from its middle.
  static Arguments reader_arguments(std::uint64_t table = kElsewhere,
                                    std::uint64_t lengths = kElsewhere + 0x1000) {
    std::vector<unsigned char> bytes(2688);
    const auto put = [&](std::size_t at, auto value) {
      std::memcpy(bytes.data() + at, &value, sizeof value);
    };
    for (const unsigned at : {12u, 116u, 160u}) put(at, 64);  // dimensions
    for (const unsigned at : {16u, 120u}) put(at, 2);         // heads
    for (const unsigned at : {112u, 432u}) put(at, 16);       // tokens of a block
    put(456, 1);                                              // heads of a group
    for (const unsigned at : {128u, 168u}) put(at, std::int64_t{128});
    for (const unsigned at : {136u, 176u}) put(at, std::int64_t{64});
    for (const unsigned at : {144u, 184u}) put(at, std::int64_t{2048});
    put(104, kPoolBase);
    put(152, kPoolBase + kPoolBytes / 2);
    put(408, table);
    put(416, 5);
    put(424, std::int64_t{40});
    put(1936, lengths);
    Arguments arguments;
    arguments.add_bytes(std::move(bytes));
    return arguments;
  }

  CUfunction reader_ = nullptr, peek_ = nullptr;
};

TEST_F(Reads, TheTableOfAReaderGoesToTheGate) {
  EXPECT_EQ(launch(reader_, reader_arguments()), CUDA_SUCCESS);
  ASSERT_EQ(gate().work.size(), 1u);
  ASSERT_TRUE(gate().work[0].read.has_value());
  const vmm::TableRead& read = *gate().work[0].read;
  EXPECT_EQ(read.ids, kElsewhere);
  EXPECT_EQ(read.lengths, kElsewhere + 0x1000);
  EXPECT_EQ(read.row_stride, 160u);
  EXPECT_EQ(read.rows, 5u);
  EXPECT_EQ(read.entries, 40u);
  EXPECT_EQ(read.block, 16u);
  ASSERT_EQ(read.parts, 2u);
  EXPECT_EQ(read.part[0].base, kPoolBase);
  EXPECT_EQ(read.part[1].base, kPoolBase + kPoolBytes / 2);
  for (std::uint32_t p = 0; p < read.parts; ++p) {
    EXPECT_EQ(read.part[p].block_stride, 4096u);
    EXPECT_EQ(read.part[p].length, 4096u);
    EXPECT_EQ(read.part[p].pool_begin, kPoolBase);
    EXPECT_EQ(read.part[p].pool_end, kPoolBase + kPoolBytes);
  }
  EXPECT_THAT(gate().reads_unseen, IsEmpty());
}

TEST_F(Reads, NothingIsLookedAtWhenNobodyAsks) {
  gate().wants_read = false;
  launch(reader_, reader_arguments(1));  // no table at all
  ASSERT_EQ(gate().work.size(), 1u);
  EXPECT_FALSE(gate().work[0].read.has_value());
  EXPECT_THAT(gate().reads_unseen, IsEmpty());
}

TEST_F(Reads, ATableThatAMarkCanNotFollowIsAReadUnseen) {
  for (const auto& [table, lengths] :
       {std::pair{kElsewhere + 2, kElsewhere}, std::pair{kElsewhere, kElsewhere + 1},
        std::pair{kElsewhere, std::uint64_t{0}}}) {
    gate().work.clear();
    gate().reads_unseen.clear();
    launch(reader_, reader_arguments(table, lengths));
    ASSERT_EQ(gate().work.size(), 1u);
    EXPECT_FALSE(gate().work[0].read.has_value());
    EXPECT_THAT(gate().reads_unseen, ElementsAre(kPoolBase));
  }
}

TEST_F(Reads, AReaderWithoutATableAndAnUnknownKernelReadUnseen) {
  Arguments arguments;
  launch(peek_, arguments.add(kPoolBase).add(kElsewhere));
  EXPECT_THAT(gate().reads_unseen, ElementsAre(kPoolBase));
  launch(unknown_, unknown_arguments(kPoolBase));
  EXPECT_THAT(gate().reads_unseen, ElementsAre(kPoolBase, kPoolBase));
}

TEST_F(Reads, WhatIsCapturedUnseenMayReadAtAnyTime) {
  begin();
  Arguments arguments;
  launch(peek_, arguments.add(kPoolBase).add(kElsewhere), 1, kStream);
  end();
  EXPECT_THAT(gate().reads_unseen, IsEmpty());
  EXPECT_THAT(gate().reads_unseen_in_graphs, ElementsAre(kPoolBase));
}

TEST_F(Reads, AWriterReadsNothing) {
  launch(writer_, writer_arguments(), 4);
  launch(writer_, writer_arguments(), 0);  // and writes nothing
  EXPECT_THAT(gate().reads_unseen, IsEmpty());
}

// An allocator hands the end of a segment to other tensors.
TEST_F(Reads, WhatLiesInThePoolsLastGranuleIsNoCache) {
  const std::uint64_t tail = kPoolBase + kPoolBytes - 1 * kMiB;
  Arguments arguments;
  launch(peek_, arguments.add(tail).add(kElsewhere));
  launch(unknown_, unknown_arguments(tail));
  ASSERT_EQ(gate().work.size(), 2u);
  EXPECT_THAT(gate().reads_unseen, IsEmpty());
}

TEST_F(Reads, AGraphWithoutMarksReadsUnseen) {
  CUgraph graph = empty_graph();
  add_kernel(graph, reader_, reader_arguments());
  instantiate(graph);
  EXPECT_THAT(gate().reads_unseen_in_graphs, ElementsAre(kPoolBase)) << "built by hand";
  gate().reads_unseen_in_graphs.clear();
  instantiate(captured_writer());
  EXPECT_THAT(gate().reads_unseen_in_graphs, IsEmpty()) << "captured: its readers have marks";
}

TEST_F(Reads, ChangedNodesAreTold) {
  CUgraphExec exec = instantiate(captured_writer());
  EXPECT_EQ(gate().read_node_changes, 0);
  CUgraph graph = empty_graph();
  CUgraphNode node = add_kernel(graph, unknown_, unknown_arguments(kElsewhere));
  Arguments arguments = unknown_arguments(kElsewhere);
  CUDA_KERNEL_NODE_PARAMS params = kernel_params(unknown_, &arguments);
  hook_cuGraphExecKernelNodeSetParams_v2(exec, node, &params);
  EXPECT_EQ(gate().read_node_changes, 1) << "of an executable, whatever it names now";
  hook_cuGraphKernelNodeSetParams_v2(node, &params);
  EXPECT_EQ(gate().read_node_changes, 2) << "of a graph";
}

}  // namespace
}  // namespace kvshim::preload::testing
