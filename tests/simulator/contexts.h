// Contexts and each thread's stack of them.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "tests/simulator/api.h"

namespace kvshim::simulator {

struct Completion;
struct Stream;

/// Never freed: a handle stays recognisable after its destruction.
struct Context {
  bool primary = false;
  unsigned flags = 0;
  std::uint64_t id = 0;
  std::atomic<bool> alive{false};
  /// CUDA_SUCCESS, or the error that ended it: reported by everything after.
  std::atomic<CUresult> sticky{CUDA_SUCCESS};
  std::shared_ptr<Stream> legacy_stream;
  /// Copies that hold up what others submit, and those that hold up what makes and ends events
  /// (await_copies() and await_copies_before_events() in streams.h); guarded by the stream mutex.
  std::vector<std::shared_ptr<Completion>> holding_copies, copies_before_events;
};

inline CUcontext handle_of(Context* context) { return reinterpret_cast<CUcontext>(context); }
/// The context a handle names, null when it never was one.
Context* context_of(CUcontext handle) noexcept;
/// The thread's current context (perhaps destroyed), or null.
Context* current_context() noexcept;

}  // namespace kvshim::simulator
