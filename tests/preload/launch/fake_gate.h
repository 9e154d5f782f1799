// A gate that does nothing but take note, and the pools it answers with. Linked
// in place of the real one.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "preload/gate.h"

namespace kvshim::preload::testing {

inline constexpr std::uint64_t kArenaBase = 0x600000200000;
inline constexpr std::uint64_t kArenaBytes = std::uint64_t{1} << 40;

struct FakeGate {
  struct Work {
    StreamRef stream;
    std::vector<Access> accesses;
    std::optional<vmm::LinearWrite> linear;
    std::optional<vmm::TableRead> read;
  };
  struct Fill {
    StreamRef stream;
    CUdeviceptr address = 0;
    std::size_t bytes = 0;
    bool zero = false;
  };
  struct Unknown {
    std::string name;
    std::string words;
    std::size_t bytes = 0;
  };
  std::vector<PoolView> pools;
  std::vector<Work> work;
  std::vector<std::vector<ListedWork>> lists;
  std::vector<Fill> fills;
  std::map<PinId, std::vector<Access>> pins;
  PinId last_pin = 0;
  std::vector<Access> waited_for;  // by retry_while_absent()
  CUresult pin_result = CUDA_SUCCESS;
  CUresult guard_result = CUDA_SUCCESS;  // not CUDA_SUCCESS: work is not submitted
  std::vector<std::uint64_t> remembered;
  std::vector<Unknown> unknown;
  std::vector<CUcontext> destroyed_contexts, ended_contexts;  // before, and after
  std::vector<CUstream> waits;                                // that before_wait() was told of
  std::vector<std::string> calls;                             // life cycle calls, in order
  bool wants_read = false;
  std::vector<CUdeviceptr> reads_unseen, reads_unseen_in_graphs;  // bases of pools
  int read_node_changes = 0;
  std::vector<Access> in_no_order;

  const PoolView& add_pool(std::uint64_t base, std::size_t bytes);
};

/// The one of the running test.
FakeGate& gate();
/// A fresh one; the arena exists (`with_arena`) or not.
void reset_gate(bool with_arena);

}  // namespace kvshim::preload::testing
