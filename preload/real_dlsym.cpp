#include "preload/real_dlsym.h"

#include <dlfcn.h>

using DlsymFunction = void* (*)(void*, const char*);

// In sanitized builds the sanitizer's runtime calls dlsym before it has set itself
// up: what runs then must not be instrumented, down to the atomic accesses.
#if defined(__clang__)
#define KVSHIM_BEFORE_ANYTHING __attribute__((disable_sanitizer_instrumentation))
#else
#define KVSHIM_BEFORE_ANYTHING __attribute__((no_sanitize("address", "thread", "undefined")))
#endif

namespace {

KVSHIM_BEFORE_ANYTHING void* nothing_found(void*, const char*) { return nullptr; }

}  // namespace

// Read and filled by the assembly in resolver.cpp as well; hidden, C names.
extern "C" {
__attribute__((visibility("hidden"))) DlsymFunction kvshim_real_dlsym = nullptr;

/// Finds the real function. Threads that come together find the same.
__attribute__((visibility("hidden"))) KVSHIM_BEFORE_ANYTHING DlsymFunction
kvshim_find_real_dlsym() noexcept {
#if defined(__aarch64__)
  const char* const old_version = "GLIBC_2.17";
#else
  const char* const old_version = "GLIBC_2.2.5";
#endif
  // 2.34 moved libdl into libc. A request for a missing version leaves an error
  // message, which costs an allocation in the loader, so the likelier is first.
  void* function = dlvsym(RTLD_NEXT, "dlsym", "GLIBC_2.34");
  if (function == nullptr) function = dlvsym(RTLD_NEXT, "dlsym", old_version);
  // No C library we know: nothing can be looked up, nor can anybody be told.
  if (function == nullptr) return &nothing_found;
  const auto found = reinterpret_cast<DlsymFunction>(function);
  __atomic_store_n(&kvshim_real_dlsym, found, __ATOMIC_RELEASE);
  return found;
}
}

namespace kvshim::preload {

void* real_dlsym(void* handle, const char* name) noexcept {
  DlsymFunction function = __atomic_load_n(&kvshim_real_dlsym, __ATOMIC_ACQUIRE);
  if (function == nullptr) function = kvshim_find_real_dlsym();
  return function(handle, name);
}

}  // namespace kvshim::preload
