// What readers read: marks in front of them, and how the host gets them.
#pragma once

#include "vmm/guard_abi.h"
#include "vmm/kernels/kernel_env.h"

namespace kvshim::vmm::mark_detail {

namespace env = kernel_env;

KVSHIM_DEVICE void mark_granule(const MarkParams& params, std::uint64_t granule) {
  std::uint32_t* const word = params.marks + (granule >> 5);
  const std::uint32_t bit = 1u << (granule & 31u);
  // Requests share blocks, and blocks granules: most bits are set already.
  if ((env::load_volatile(word) & bit) == 0) env::atomic_or(word, bit);
}

KVSHIM_DEVICE void mark_block(const MarkParams& params, std::uint64_t block) {
  for (std::uint32_t p = 0; p < params.read.parts; ++p) {
    const TablePart& part = params.read.part[p];
    if (part.length == 0) continue;
    const std::uint64_t begin = part.base + block * part.block_stride;
    const std::uint64_t last = begin + part.length - 1;
    // An id of no block of this pool: what a row's unused end may hold.
    if (begin < part.pool_begin || last < begin || last >= part.pool_end) continue;
    const std::uint64_t end = (last - params.arena_base) >> 21;
    for (std::uint64_t g = (begin - params.arena_base) >> 21; g <= end; ++g) {
      mark_granule(params, g);
    }
  }
}

KVSHIM_DEVICE std::uint32_t entries_of(const TableRead& read, std::uint32_t row) {
  if (read.lengths == 0) return read.entries;
  const std::int32_t length = reinterpret_cast<const std::int32_t*>(read.lengths)[row];
  if (length <= 0) return 0;
  const std::uint32_t blocks = (static_cast<std::uint32_t>(length) - 1) / read.block + 1;
  return blocks < read.entries ? blocks : read.entries;
}

}  // namespace kvshim::vmm::mark_detail

// A block a row. In a graph it is there at each launch and leaves at once when nobody asked.
// It reads what the reader behind it reads: lengths of rows that the launch has, and as many
// ids of a row as its length says.
KVSHIM_KERNEL kvshim_mark_read(kvshim::vmm::MarkParams params) {
  using namespace kvshim;
  KVSHIM_SHARED std::uint32_t asked;
  if (kernel_env::thread_index() == 0) {
    asked = params.asked != 0 ? params.asked : kernel_env::load_volatile(&params.channel->asked);
  }
  kernel_env::sync_block();
  const std::uint32_t answer = asked;
  if (answer == 0) return;
  const vmm::TableRead& read = params.read;
  for (std::uint32_t row = kernel_env::block_index(); row < read.rows;
       row += kernel_env::block_count()) {
    const std::uint32_t entries = vmm::mark_detail::entries_of(read, row);
    const auto* ids = reinterpret_cast<const std::int32_t*>(read.ids + row * read.row_stride);
    for (std::uint32_t i = kernel_env::thread_index(); i < entries;
         i += kernel_env::thread_count()) {
      const std::int32_t id = ids[i];
      if (id >= 0) vmm::mark_detail::mark_block(params, static_cast<std::uint64_t>(id));
    }
  }
  kernel_env::sync_block();
  if (kernel_env::thread_index() == 0) {
    kernel_env::fence_system();
    kernel_env::store_volatile(&params.channel->answered, answer);
  }
}

KVSHIM_KERNEL kvshim_take_marks(kvshim::vmm::TakeParams params) {
  using namespace kvshim;
  const std::uint32_t step = kernel_env::block_count() * kernel_env::thread_count();
  for (std::uint32_t i =
           kernel_env::block_index() * kernel_env::thread_count() + kernel_env::thread_index();
       i < params.words; i += step) {
    if (kernel_env::load_volatile(params.marks + i) == 0) continue;
    kernel_env::store_volatile(params.taken + i, kernel_env::atomic_exchange(params.marks + i, 0u));
  }
  kernel_env::fence_system();
}
