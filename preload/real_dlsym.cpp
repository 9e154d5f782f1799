#include "preload/real_dlsym.h"

#include <dlfcn.h>

#include <atomic>

namespace {

using DlsymFunction = void* (*)(void*, const char*);

}  // namespace

// Read and filled by the assembly in resolver.cpp as well; hidden, C names.
extern "C" {
__attribute__((visibility("hidden"))) std::atomic<DlsymFunction> kvshim_real_dlsym{nullptr};

/// Finds the real function. Threads that come together find the same.
__attribute__((visibility("hidden"))) DlsymFunction kvshim_find_real_dlsym() noexcept {
#if defined(__aarch64__)
  constexpr const char* kVersions[] = {"GLIBC_2.34", "GLIBC_2.17"};
#else
  // 2.34 moved libdl into libc; a request for a missing version leaves an error
  // message, which costs an allocation in the loader, so the likelier is first.
  constexpr const char* kVersions[] = {"GLIBC_2.34", "GLIBC_2.2.5"};
#endif
  for (const char* version : kVersions) {
    if (void* function = dlvsym(RTLD_NEXT, "dlsym", version)) {
      const auto real = reinterpret_cast<DlsymFunction>(function);
      kvshim_real_dlsym.store(real, std::memory_order_release);
      return real;
    }
  }
  // No C library we know: nothing can be looked up, nor can anybody be told.
  return [](void*, const char*) -> void* { return nullptr; };
}
}

namespace kvshim::preload {

void* real_dlsym(void* handle, const char* name) noexcept {
  DlsymFunction function = kvshim_real_dlsym.load(std::memory_order_acquire);
  if (function == nullptr) function = kvshim_find_real_dlsym();
  return function(handle, name);
}

}  // namespace kvshim::preload
