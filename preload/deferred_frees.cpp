#include "preload/deferred_frees.h"

#include "preload/never_destroyed.h"

namespace kvshim::preload {
namespace {

NeverDestroyed<DeferredFrees>& all_deferred() noexcept {
  static NeverDestroyed<DeferredFrees> all;
  return all;
}

}  // namespace

DeferredFrees& deferred_frees() noexcept { return *all_deferred(); }

void forget_deferred_frees_after_fork() noexcept { all_deferred().start_anew(); }

void DeferredFrees::add(const DeferredFree& one) {
  std::lock_guard lock(mutex_);
  waiting_.push_back(one);
}

bool DeferredFrees::any() {
  std::lock_guard lock(mutex_);
  return !waiting_.empty() || taken_ != 0;
}

std::list<DeferredFree> DeferredFrees::take(
    const std::function<bool(const DeferredFree&)>& has_come) {
  std::list<DeferredFree> taken;
  std::lock_guard lock(mutex_);
  for (auto next = waiting_.begin(); next != waiting_.end();) {
    const auto one = next++;
    if (has_come(*one)) taken.splice(taken.end(), waiting_, one);
  }
  taken_ += taken.size();
  return taken;
}

void DeferredFrees::settle(std::list<DeferredFree>* taken, bool gone) {
  std::lock_guard lock(mutex_);
  --taken_;
  if (gone) {
    taken->pop_front();
  } else {
    waiting_.splice(waiting_.end(), *taken, taken->begin());
  }
}

}  // namespace kvshim::preload
