// The guards: kernels put in front of work that may write absent granules.
// A guard looks granules up in the residency bitmap; what is missing it asks
// for through the channel and waits until the fault server has answered.
#pragma once

#include "vmm/guard_abi.h"
#include "vmm/kernels/kernel_env.h"

namespace kvshim::vmm::guard_detail {

namespace env = kernel_env;

KVSHIM_DEVICE bool is_present(const GuardContext& context, std::uint32_t granule) {
  const std::uint32_t word = env::load_volatile(context.present + (granule >> 5));
  return ((word >> (granule & 31u)) & 1u) != 0;
}

KVSHIM_DEVICE std::uint32_t granule_of(const GuardContext& context, std::uint64_t address) {
  return static_cast<std::uint32_t>((address - context.arena_base) >> 21);
}

// The counter lies in device memory beside the lock: atomics on pinned host
// memory would each cross the bus.
KVSHIM_DEVICE std::uint32_t* wanted_counter(const GuardContext& context) {
  return context.lock + 1;
}

KVSHIM_DEVICE void ask_for(const GuardContext& context, std::uint32_t first, std::uint32_t count) {
  const std::uint32_t index = env::atomic_add(wanted_counter(context), 1);
  if (index < kMaxWantedRuns) context.channel->wanted[index] = AbiRun{first, count};
}

// Several threads find the same granule missing: the first to mark it asks.
KVSHIM_DEVICE void ask_once(const GuardContext& context, std::uint32_t granule) {
  const std::uint32_t bit = 1u << (granule & 31u);
  const std::uint32_t before = env::atomic_or(context.requested + (granule >> 5), bit);
  if ((before & bit) == 0) ask_for(context, granule, 1);
}

KVSHIM_DEVICE std::int64_t slot_at(const LinearWrite& write, std::uint32_t index) {
  return write.slot_bytes == 4
             ? static_cast<std::int64_t>(reinterpret_cast<const std::int32_t*>(write.slots)[index])
             : static_cast<std::int64_t>(reinterpret_cast<const long long*>(write.slots)[index]);
}

// Calls visit(first, last) for each non-empty destination of each slot, with
// granule indices, and outside(pool_first, pool_last) when an address lies
// outside its pool.
template <class Visit, class Outside>
KVSHIM_DEVICE void each_destination(const GuardContext& context, const LinearWrite& write,
                                    const Visit& visit, const Outside& outside) {
  const std::uint32_t step = env::thread_count();
  for (std::uint32_t i = env::thread_index(); i < write.count; i += step) {
    const std::int64_t slot = slot_at(write, i);
    if (slot < write.skip_below) continue;
    const std::uint64_t unsigned_slot = static_cast<std::uint64_t>(slot);
    const std::uint64_t block = unsigned_slot / write.block;
    const std::uint64_t within = unsigned_slot - block * write.block;
    for (std::uint32_t d = 0; d < write.destinations; ++d) {
      const LinearDestination& to = write.destination[d];
      if (to.length == 0) continue;
      const std::uint64_t begin = to.base + block * to.block_stride + within * to.slot_stride;
      const std::uint64_t last = begin + to.length - 1;
      if (slot < 0 || begin < to.pool_begin || last < begin || last >= to.pool_end) {
        outside(granule_of(context, to.pool_begin), granule_of(context, to.pool_end - 1));
      } else {
        visit(granule_of(context, begin), granule_of(context, last));
      }
    }
  }
}

constexpr std::uint32_t kUsualDestinations = 2;  // K and V

// True: everything that this thread's slots write is present. False: not known, for
// what is rare (a piece over two granules, numbers beyond 32 bits, what lies outside
// its pool) is left to each_destination(). Nearly every launch ends here, between two
// kernels that wait for it: no branch but the loop, and the bitmap words of K and V
// are both asked for before either is looked at.
KVSHIM_DEVICE bool surely_present(const GuardContext& context, const LinearWrite& write) {
  const std::uint32_t block_slots = static_cast<std::uint32_t>(write.block);
  if (write.block != block_slots || write.destinations > kUsualDestinations) return false;
  const std::uint32_t step = env::thread_count();
  bool sure = true;
  for (std::uint32_t i = env::thread_index(); i < write.count; i += step) {
    const std::int64_t slot = slot_at(write, i);
    const bool skipped = slot < write.skip_below;
    const std::uint32_t small = static_cast<std::uint32_t>(slot);
    const bool is_small = slot == static_cast<std::int64_t>(small);
    const std::uint32_t block = small / block_slots;
    const std::uint32_t within = small - block * block_slots;
    std::uint32_t words[kUsualDestinations];
    std::uint32_t bits[kUsualDestinations];
    bool fits = is_small;
    KVSHIM_UNROLL
    for (std::uint32_t d = 0; d < kUsualDestinations; ++d) {
      const LinearDestination& to = write.destination[d];
      const bool none = d >= write.destinations || to.length == 0;
      const std::uint64_t begin = to.base + block * to.block_stride + within * to.slot_stride;
      const std::uint64_t end = begin + to.length;
      const std::uint32_t granule = granule_of(context, begin);
      const bool inside = begin >= to.pool_begin && end > begin && end <= to.pool_end &&
                          granule == granule_of(context, end - 1);
      fits = fits && (none || inside);
      // Where nothing may be looked up the first word is, and means nothing.
      const bool look = !none && inside && is_small && !skipped;
      bits[d] = look ? 1u << (granule & 31u) : 0;
      words[d] = env::load_volatile(context.present + (look ? granule >> 5 : 0));
    }
    KVSHIM_UNROLL
    for (std::uint32_t d = 0; d < kUsualDestinations; ++d)
      fits = fits && (words[d] & bits[d]) == bits[d];
    sure = sure && (skipped || fits);
  }
  return sure;
}

template <class Visit>
KVSHIM_DEVICE void each_fixed(const FixedGuardParams& params, const Visit& visit) {
  for (std::uint32_t r = 0; r < params.run_count; ++r) {
    const AbiRun run = params.runs[r];
    for (std::uint32_t i = env::thread_index(); i < run.count; i += env::thread_count()) {
      visit(run.first + i, run.first + i);
    }
  }
}

KVSHIM_DEVICE void acquire(const GuardContext& context) {
  if (env::thread_index() == 0) {
    while (env::atomic_exchange(context.lock, 1u) != 0) env::relax();
    env::fence_device();
  }
  env::sync_block();
}

KVSHIM_DEVICE void release(const GuardContext& context) {
  env::sync_block();
  if (env::thread_index() == 0) {
    env::fence_device();
    env::atomic_exchange(context.lock, 0u);
  }
}

// Rings the doorbell and waits; thread 0 only. False: told to give up.
KVSHIM_DEVICE bool ring_and_wait(GuardChannel* channel, std::uint32_t kind, std::uint32_t wanted) {
  const std::uint32_t ticket = env::load_volatile(&channel->answer) + 1;
  env::store_volatile(&channel->request_kind, kind);
  env::store_volatile(&channel->wanted_count, wanted);
  env::fence_system();
  env::store_volatile(&channel->request, ticket);
  env::fence_system();
  while (env::load_volatile(&channel->answer) != ticket) {
    if (env::load_volatile(&channel->give_up) != 0) return false;
    env::relax();
  }
  env::fence_system();
  return true;
}

struct alignas(16) CopyWord {
  std::uint32_t a, b, c, d;
};

// One thread's loads that are under way at once. A read over PCIe takes 1.3 us: 32 threads with 8
// words each copied 3 to 4 GB/s, with 32 words 11.6 (measured: docs/results/parking.md).
constexpr int kWordsAtOnce = 32;

KVSHIM_DEVICE void copy_block(const AbiCopy& copy) {
  // Extents are multiples of 2 MiB: always whole rounds for up to 1024 threads.
  const std::uint64_t words = copy.bytes / sizeof(CopyWord);
  const CopyWord* source = reinterpret_cast<const CopyWord*>(copy.source);
  CopyWord* destination = reinterpret_cast<CopyWord*>(copy.destination);
  const std::uint64_t step = env::thread_count();
  std::uint64_t i = env::thread_index();
  for (; i + (kWordsAtOnce - 1) * step < words; i += kWordsAtOnce * step) {
    CopyWord held[kWordsAtOnce];
    KVSHIM_UNROLL
    for (int k = 0; k < kWordsAtOnce; ++k) {
      held[k] = source[i + static_cast<std::uint64_t>(k) * step];
    }
    KVSHIM_UNROLL
    for (int k = 0; k < kWordsAtOnce; ++k) {
      destination[i + static_cast<std::uint64_t>(k) * step] = held[k];
    }
  }
  for (; i < words; i += step) destination[i] = source[i];
}

// One request until it is answered with present granules or refused. All
// threads of the block; the lock is held. True: bits were set, look again.
KVSHIM_DEVICE bool ask_and_apply(const GuardContext& context, RequestKind kind,
                                 std::uint32_t behind) {
  GuardChannel* channel = context.channel;
  KVSHIM_SHARED std::uint32_t verdict;
  KVSHIM_SHARED std::uint32_t progressed;
  for (;;) {
    env::sync_block();
    if (env::thread_index() == 0) {
      progressed = 0;
      const std::uint32_t wanted = env::load_volatile(wanted_counter(context));
      verdict = ring_and_wait(channel, static_cast<std::uint32_t>(kind) | behind, wanted)
                    ? env::load_volatile(&channel->answer_kind)
                    : static_cast<std::uint32_t>(AnswerKind::kFailed);
    }
    env::sync_block();
    if (verdict != static_cast<std::uint32_t>(AnswerKind::kCopyFirst)) break;
    const std::uint32_t copies = env::load_volatile(&channel->copy_count);
    for (std::uint32_t c = 0; c < copies && c < kMaxCopies; ++c) copy_block(channel->copies[c]);
    env::fence_system();
    kind = RequestKind::kCopied;
  }
  if (verdict == static_cast<std::uint32_t>(AnswerKind::kFailed)) return false;
  const std::uint32_t runs = env::load_volatile(&channel->run_count);
  for (std::uint32_t r = 0; r < runs && r < kMaxAnswerRuns; ++r) {
    const AbiRun run = channel->runs[r];
    for (std::uint32_t i = env::thread_index(); i < run.count; i += env::thread_count()) {
      const std::uint32_t granule = run.first + i;
      const std::uint32_t bit = 1u << (granule & 31u);
      if ((env::atomic_or(context.present + (granule >> 5), bit) & bit) == 0) {
        env::store_volatile(&progressed, 1u);
      }
    }
  }
  env::fence_device();
  env::sync_block();
  const bool again = progressed != 0;
  env::sync_block();
  return again;
}

// `each(visit)` enumerates granule ranges of this thread. The loop ends when
// nothing is missing, or when an answer brought no progress: then the writer
// that follows stops at a read-only page, which is loud.
template <class Each>
KVSHIM_DEVICE void make_present(const GuardContext& context, RequestKind kind, std::uint32_t behind,
                                const Each& each) {
  bool missing = false;
  each([&](std::uint32_t first, std::uint32_t last) {
    for (std::uint32_t g = first; g <= last; ++g) missing = missing || !is_present(context, g);
  });
  if (!env::any_in_block(missing)) return;
  acquire(context);
  for (;;) {
    if (env::thread_index() == 0) env::store_volatile(wanted_counter(context), 0);
    env::fence_device();
    env::sync_block();
    bool asked = false;
    each([&](std::uint32_t first, std::uint32_t last) {
      for (std::uint32_t g = first; g <= last; ++g) {
        if (is_present(context, g)) continue;
        ask_once(context, g);
        asked = true;
      }
    });
    if (!env::any_in_block(asked)) break;
    const bool again = ask_and_apply(context, kind, behind);
    each([&](std::uint32_t first, std::uint32_t last) {
      for (std::uint32_t g = first; g <= last; ++g) {
        env::atomic_and(context.requested + (g >> 5), ~(1u << (g & 31u)));
      }
    });
    env::fence_device();
    env::sync_block();
    if (!again) break;
  }
  release(context);
}

}  // namespace kvshim::vmm::guard_detail

KVSHIM_KERNEL kvshim_guard_linear(kvshim::vmm::LinearGuardParams params) {
  using namespace kvshim::vmm;
  const GuardContext& context = params.context;
  const bool all_there = guard_detail::surely_present(context, params.write);
  if (!guard_detail::env::any_in_block(!all_there)) return;
  guard_detail::make_present(
      context, RequestKind::kWantedRows, params.behind, [&](const auto& visit) {
        guard_detail::each_destination(context, params.write, visit,
                                       // What lies outside its pool shows that the form does not
                                       // fit this kernel: the whole pool is the only safe answer.
                                       visit);
      });
}

KVSHIM_KERNEL kvshim_guard_fixed(kvshim::vmm::FixedGuardParams params) {
  using namespace kvshim::vmm;
  guard_detail::make_present(params.context, RequestKind::kWantedExact, params.behind,
                             [&](const auto& visit) { guard_detail::each_fixed(params, visit); });
}
