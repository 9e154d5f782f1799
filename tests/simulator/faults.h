// Memory faults of simulated GPU work. A fault on a thread that is executing
// a kernel or a copy ends that work and is reported; a fault anywhere else
// goes to the handler that was there before.
#pragma once

#include <csetjmp>
#include <utility>

namespace kvshim::simulator {

/// Takes over SIGSEGV and SIGBUS once.
void install_fault_handler();

namespace faults_detail {
extern thread_local sigjmp_buf* active __attribute__((tls_model("initial-exec")));
}

/// Runs `work`; false when it touched memory that the GPU may not touch. What
/// `work` held (locks, memory) when it faulted is not released: kernels and
/// copies hold nothing. Not nested.
template <class Work>
bool run_guarded(Work&& work) {
  sigjmp_buf place;
  if (sigsetjmp(place, 1) != 0) {
    faults_detail::active = nullptr;
    return false;
  }
  faults_detail::active = &place;
  std::forward<Work>(work)();
  faults_detail::active = nullptr;
  return true;
}

}  // namespace kvshim::simulator
