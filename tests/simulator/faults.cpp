#include "tests/simulator/faults.h"

#include <csignal>

namespace kvshim::simulator {
namespace faults_detail {
thread_local sigjmp_buf* active __attribute__((tls_model("initial-exec"))) = nullptr;
}

namespace {

struct sigaction earlier_segv;
struct sigaction earlier_bus;

void on_fault(int number, siginfo_t* info, void* context) {
  if (faults_detail::active != nullptr) siglongjmp(*faults_detail::active, 1);
  const struct sigaction& earlier = number == SIGBUS ? earlier_bus : earlier_segv;
  if ((earlier.sa_flags & SA_SIGINFO) != 0) {
    earlier.sa_sigaction(number, info, context);
  } else if (earlier.sa_handler == SIG_DFL || earlier.sa_handler == SIG_IGN) {
    // Restored: the faulting instruction runs again and ends the process as
    // it would have without the simulator.
    sigaction(number, &earlier, nullptr);
  } else {
    earlier.sa_handler(number);
  }
}

}  // namespace

void install_fault_handler() {
  struct sigaction action {};
  action.sa_sigaction = on_fault;
  // SA_NODEFER: the handler is left by a jump.
  action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  sigaction(SIGSEGV, &action, &earlier_segv);
  sigaction(SIGBUS, &action, &earlier_bus);
}

}  // namespace kvshim::simulator
