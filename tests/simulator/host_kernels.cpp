#include "tests/simulator/host_kernels.h"

#include <map>
#include <mutex>
#include <string>

#include "tests/engine/kernel_names.h"
#include "tests/engine/kernels.cuh"
#include "tests/simulator/test_kernels.cuh"
#include "vmm/kernels/guard.cuh"
#include "vmm/kernels/mark.cuh"
#include "vmm/kernels/scan.cuh"

namespace kvshim::simulator {
namespace {

struct KernelTable {
  std::mutex mutex;
  std::map<std::string, KernelCall, std::less<>> calls = {
      {"kvshim_guard_linear", kHostCall<&kvshim_guard_linear>},
      {"kvshim_guard_fixed", kHostCall<&kvshim_guard_fixed>},
      {"kvshim_scan", kHostCall<&kvshim_scan>},
      {"kvshim_clear_present", kHostCall<&kvshim_clear_present>},
      {"kvshim_mark_read", kHostCall<&kvshim_mark_read>},
      {"kvshim_take_marks", kHostCall<&kvshim_take_marks>},
      {"kvshim_test_store", kHostCall<&kvshim_test_store>},
      {"kvshim_test_times_ten_plus", kHostCall<&kvshim_test_times_ten_plus>},
      {"kvshim_test_spin", kHostCall<&kvshim_test_spin>},
      {"kvshim_test_copy_plus_one", kHostCall<&kvshim_test_copy_plus_one>},
      {"kvshim_test_sum", kHostCall<&kvshim_test_sum>},
      {"kvshim_test_block_numbers", kHostCall<&kvshim_test_block_numbers>},
#define KVSHIM_ENGINE_KERNEL(constant, name, function) {name, kHostCall<function>},
      KVSHIM_ENGINE_KERNELS(KVSHIM_ENGINE_KERNEL)
#undef KVSHIM_ENGINE_KERNEL
  };
};

KernelTable& kernel_table() {
  static KernelTable* const instance = new KernelTable;
  return *instance;
}

}  // namespace

KernelCall find_host_kernel(std::string_view name) {
  KernelTable& all = kernel_table();
  const std::lock_guard lock(all.mutex);
  const auto found = all.calls.find(name);
  return found == all.calls.end() ? nullptr : found->second;
}

}  // namespace kvshim::simulator

void kvshim_simulator_add_kernel(const char* name, void (*call)(void* const* params)) {
  auto& all = kvshim::simulator::kernel_table();
  const std::lock_guard lock(all.mutex);
  all.calls[name] = call;
}
