// Threads of ours in somebody else's process.
#pragma once

#include <pthread.h>
#include <signal.h>

#include <thread>
#include <utility>

#include "vmm/stop_flag.h"

namespace kvshim::vmm {

/// While it lives the calling thread takes no signals, and a thread that it starts never
/// does: a handler of the host's would run in that thread, perhaps under one of our locks,
/// and a signal that the host waits for elsewhere could end in it. Faults of the thread
/// itself go their way.
class HostSignalsBlocked {
 public:
  HostSignalsBlocked() noexcept {
    sigset_t signals;
    sigfillset(&signals);
    for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL}) sigdelset(&signals, fault);
    pthread_sigmask(SIG_BLOCK, &signals, &before_);
  }
  ~HostSignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  HostSignalsBlocked(const HostSignalsBlocked&) = delete;
  HostSignalsBlocked& operator=(const HostSignalsBlocked&) = delete;

 private:
  sigset_t before_{};
};

/// Starts a detached thread that runs `body` until `stop` is requested. Throws
/// std::system_error when there can be no more threads (a control group's limit):
/// nobody waits for one then.
template <class Body>
void start_service_thread(StopFlag& stop, Body body) {
  const HostSignalsBlocked blocked;
  stop.thread_starts();
  try {
    std::thread([&stop, run = std::move(body)] {
      run();
      stop.thread_ended();
    }).detach();
  } catch (...) {
    stop.thread_ended();
    throw;
  }
}

}  // namespace kvshim::vmm
