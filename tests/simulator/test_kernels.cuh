// Kernels of the simulator's own tests and of other tests that need a plain
// kernel; compiled for the GPU (test_kernels.cu) and into the simulator.
#pragma once

#include "vmm/kernels/kernel_env.h"

// Parameters as in the measured probe: a pointer, a word, a structure.
struct TestTriple {
  unsigned long long a, b, c;
};

/// *to = value.
KVSHIM_KERNEL kvshim_test_store(unsigned* to, unsigned value, TestTriple) {
  if (kvshim::kernel_env::thread_index() == 0 && kvshim::kernel_env::block_index() == 0)
    *to = value;
}

/// *to += value, not atomic: order shows.
KVSHIM_KERNEL kvshim_test_times_ten_plus(unsigned* to, unsigned value) {
  if (kvshim::kernel_env::thread_index() == 0 && kvshim::kernel_env::block_index() == 0) {
    *to = *to * 10 + value;
  }
}

/// Waits until *flag (pinned memory) is not 0, at most for some seconds.
KVSHIM_KERNEL kvshim_test_spin(const unsigned* flag) {
  for (unsigned i = 0; i < 20000000u && kvshim::kernel_env::load_volatile(flag) == 0; ++i) {
    kvshim::kernel_env::relax();
  }
}

/// *to = *from + 1, as bytes of any memory.
KVSHIM_KERNEL kvshim_test_copy_plus_one(unsigned* to, const unsigned* from) {
  if (kvshim::kernel_env::thread_index() == 0 && kvshim::kernel_env::block_index() == 0)
    *to = *from + 1;
}

/// Adds up `count` words from `from` into *to (64 bits).
KVSHIM_KERNEL kvshim_test_sum(unsigned long long* to, const unsigned* from, unsigned count) {
  if (kvshim::kernel_env::thread_index() != 0 || kvshim::kernel_env::block_index() != 0) return;
  unsigned long long sum = 0;
  for (unsigned i = 0; i < count; ++i) sum += from[i];
  *to = sum;
}

/// Block b writes b at to[b].
KVSHIM_KERNEL kvshim_test_block_numbers(unsigned* to) {
  if (kvshim::kernel_env::thread_index() == 0) {
    to[kvshim::kernel_env::block_index()] = kvshim::kernel_env::block_index();
  }
}
