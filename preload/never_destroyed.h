// State of the process that outlives static destructors: hooks are called while
// these run, and after.
#pragma once

#include <new>

namespace kvshim::preload {

/// Holds a T in static storage, without a destructor and without an allocation
/// that could fail. For a function's static variable.
template <class T>
class NeverDestroyed {
 public:
  NeverDestroyed() noexcept { start_anew(); }
  NeverDestroyed(const NeverDestroyed&) = delete;
  NeverDestroyed& operator=(const NeverDestroyed&) = delete;

  T& operator*() noexcept { return *object_; }

  /// In a forked child: a new T in the same place. The old one is not destroyed,
  /// its locks may be held by threads that don't exist here.
  void start_anew() noexcept {
    static_assert(noexcept(T()));
    object_ = ::new (static_cast<void*>(storage_)) T;
  }

 private:
  alignas(T) unsigned char storage_[sizeof(T)];
  T* object_ = nullptr;
};

}  // namespace kvshim::preload
