#include "tests/engine/driver_functions.h"

#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>

namespace kvshim::engine {
namespace {

// The version whose entry points the declarations above are, for every name.
constexpr int kVersion = 12040;

DriverFunctions functions;

void* or_end(void* address, const char* name) {
  if (address != nullptr) return address;
  std::fprintf(stderr, "kvshim_engine: no %s\n", name);
  std::exit(1);
}

void* library() {
  static void* const handle = or_end(dlopen("libcuda.so.1", RTLD_NOW), "libcuda.so.1");
  return handle;
}

void* by_dlsym(const char* name) { return or_end(dlsym(library(), name), name); }

void* by_get_proc_address(const char* name) {
  static const auto resolve = reinterpret_cast<decltype(&::cuGetProcAddress_v2)>(
      or_end(dlsym(library(), "cuGetProcAddress_v2"), "cuGetProcAddress_v2"));
  void* address = nullptr;
  CUdriverProcAddressQueryResult status{};
  if (resolve(name, &address, kVersion, 0, &status) != CUDA_SUCCESS) address = nullptr;
  return or_end(address, name);
}

#define KVSHIM_TEXT(name) #name
#define KVSHIM_EXPORTED(name) KVSHIM_TEXT(name)  // cuda.h renames cuMemAlloc to cuMemAlloc_v2

}  // namespace

const DriverFunctions& reach_driver(EntryWay way) {
  switch (way) {
    case EntryWay::kLinked:
#define KVSHIM_ENGINE_LINKED(name) functions.name##_ = &::name;
      KVSHIM_ENGINE_DRIVER_FUNCTIONS(KVSHIM_ENGINE_LINKED)
      break;
    case EntryWay::kDlsym:
#define KVSHIM_ENGINE_DLSYM(name) \
  functions.name##_ = reinterpret_cast<decltype(&::name)>(by_dlsym(KVSHIM_EXPORTED(name)));
      KVSHIM_ENGINE_DRIVER_FUNCTIONS(KVSHIM_ENGINE_DLSYM)
      break;
    case EntryWay::kGetProcAddress:
#define KVSHIM_ENGINE_RESOLVED(name) \
  functions.name##_ = reinterpret_cast<decltype(&::name)>(by_get_proc_address(#name));
      KVSHIM_ENGINE_DRIVER_FUNCTIONS(KVSHIM_ENGINE_RESOLVED)
      break;
  }
  return functions;
}

const DriverFunctions& driver() { return functions; }

void check(CUresult result, const char* call) {
  if (result == CUDA_SUCCESS) return;
  const char* name = nullptr;
  functions.cuGetErrorName_(result, &name);
  std::fprintf(stderr, "kvshim_engine: %s: %s\n", call, name == nullptr ? "unknown error" : name);
  std::exit(1);
}

}  // namespace kvshim::engine
