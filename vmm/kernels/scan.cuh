// Kernels of the releasing thread: which extents are all zero, and clearing of
// residency bits.
#pragma once

#include "vmm/guard_abi.h"
#include "vmm/kernels/kernel_env.h"

// grid (parts, ranges): block (x, y) reads part x of range y. The gate is open
// meanwhile: what new work writes may be seen or not, and its entry makes the
// result void (proof: docs/invariants.md, "What is read with the gate open").
KVSHIM_KERNEL kvshim_scan(kvshim::vmm::ScanParams params) {
  using namespace kvshim;
  const std::uint32_t index = kernel_env::block_index_y();
  if (index >= params.range_count) return;
  const vmm::AbiCopy range = params.ranges[index];
  const std::uint64_t parts = kernel_env::block_count();
  const std::uint64_t words = range.bytes / 8;
  const std::uint64_t share = (words + parts - 1) / parts;
  const std::uint64_t begin = share * kernel_env::block_index();
  const std::uint64_t end = begin + share < words ? begin + share : words;
  const unsigned long long* data = reinterpret_cast<const unsigned long long*>(range.source);
  unsigned long long seen = 0;
  for (std::uint64_t i = begin + kernel_env::thread_index(); i < end;
       i += kernel_env::thread_count()) {
    seen |= kernel_env::load_unordered(data + i);
  }
  if (kernel_env::any_in_block(seen != 0) && kernel_env::thread_index() == 0) {
    kernel_env::store_volatile(params.nonzero + index, 1u);
    kernel_env::fence_system();
  }
}

KVSHIM_KERNEL kvshim_clear_present(kvshim::vmm::ClearParams params) {
  using namespace kvshim;
  for (std::uint32_t r = kernel_env::block_index(); r < params.run_count;
       r += kernel_env::block_count()) {
    const vmm::AbiRun run = params.runs[r];
    for (std::uint32_t i = kernel_env::thread_index(); i < run.count;
         i += kernel_env::thread_count()) {
      const std::uint32_t granule = run.first + i;
      kernel_env::atomic_and(params.context.present + (granule >> 5), ~(1u << (granule & 31u)));
    }
  }
  kernel_env::fence_device();
}
