// Graphs that make their stream wait for somebody else.
#include <gtest/gtest.h>

#include "tests/preload/launch/graph_fixture.h"

namespace kvshim::preload::testing {
namespace {

class GraphWaits : public Graph {
 protected:
  static CUgraph graph_with(CUgraphNodeType type) {
    CUgraph graph = empty_graph();
    fake(graph)->nodes.push_back(std::make_unique<FakeNode>());
    fake(graph)->nodes.back()->type = type;
    return graph;
  }
  /// Whether the gate is told before the executable is launched there.
  static bool told(CUgraphExec exec, CUstream stream = kStream) {
    gate().waits.clear();
    EXPECT_EQ(hook_cuGraphLaunch(exec, stream), CUDA_SUCCESS);
    for (CUstream one : gate().waits) EXPECT_EQ(one, stream);
    return !gate().waits.empty();
  }
  const CUstream other_ = reinterpret_cast<CUstream>(0x6000);
};

TEST_F(GraphWaits, WhatRunsNothingButDeviceWorkDoesNotWait) {
  for (const CUgraphNodeType type :
       {CU_GRAPH_NODE_TYPE_EMPTY, CU_GRAPH_NODE_TYPE_EVENT_RECORD, CU_GRAPH_NODE_TYPE_MEM_FREE,
        CU_GRAPH_NODE_TYPE_EXT_SEMAS_SIGNAL}) {
    EXPECT_FALSE(told(instantiate(graph_with(type)))) << type;
  }
  CUgraph graph = empty_graph();
  add_kernel(graph, unknown_, unknown_arguments(kElsewhere));
  EXPECT_FALSE(told(instantiate(graph)));
}

TEST_F(GraphWaits, EachKindOfWaitIsToldToTheGate) {
  for (const CUgraphNodeType type :
       {CU_GRAPH_NODE_TYPE_HOST, CU_GRAPH_NODE_TYPE_WAIT_EVENT, CU_GRAPH_NODE_TYPE_EXT_SEMAS_WAIT,
        CU_GRAPH_NODE_TYPE_BATCH_MEM_OP, CU_GRAPH_NODE_TYPE_MEM_ALLOC}) {
    EXPECT_TRUE(told(instantiate(graph_with(type)))) << type;
  }
}

TEST_F(GraphWaits, AnEmbeddedGraphsWaitIsItsParents) {
  CUgraph graph = empty_graph();
  CUgraphNode node = nullptr;
  ASSERT_EQ(
      hook_cuGraphAddChildGraphNode(&node, graph, nullptr, 0, graph_with(CU_GRAPH_NODE_TYPE_HOST)),
      CUDA_SUCCESS);
  EXPECT_TRUE(told(instantiate(graph)));
}

TEST_F(GraphWaits, ABodysWaitIsItsGraphs) {
  CUgraph graph = empty_graph();
  CUgraphNodeParams params{};
  params.type = CU_GRAPH_NODE_TYPE_CONDITIONAL;
  params.conditional.size = 1;
  CUgraphNode node = nullptr;
  ASSERT_EQ(hook_cuGraphAddNode_v2(&node, graph, nullptr, nullptr, 0, &params), CUDA_SUCCESS);
  EXPECT_FALSE(told(instantiate(graph)));
  fake(params.conditional.phGraph_out[0])->nodes.push_back(std::make_unique<FakeNode>());
  fake(params.conditional.phGraph_out[0])->nodes.back()->type = CU_GRAPH_NODE_TYPE_HOST;
  EXPECT_TRUE(told(instantiate(graph)));
}

TEST_F(GraphWaits, AnExecutableFromBeforeTheFirstPoolMayWait) {
  CUgraph graph = empty_graph();
  add_kernel(graph, unknown_, unknown_arguments(kElsewhere));
  reset_gate(false);
  CUgraphExec exec = instantiate(graph);
  EXPECT_FALSE(told(exec)) << "no pool, nothing to order";
  reset_gate(true);
  EXPECT_TRUE(told(exec));
}

// The driver starts no launch before the same executable's launch before has ended.
TEST_F(GraphWaits, ALaunchInAnotherStreamWaitsForTheLaunchBefore) {
  CUgraph graph = empty_graph();
  add_kernel(graph, unknown_, unknown_arguments(kElsewhere));
  CUgraphExec exec = instantiate(graph);
  EXPECT_FALSE(told(exec));
  EXPECT_FALSE(told(exec));
  EXPECT_TRUE(told(exec, other_));
  EXPECT_FALSE(told(exec, other_));
  EXPECT_TRUE(told(exec));
}

}  // namespace
}  // namespace kvshim::preload::testing
