// The kernels that the simulator can run: host functions under the names that
// PTX entries carry. Sources are shared with the GPU (vmm/kernels, tests/engine).
#pragma once

#include <cstddef>
#include <cstring>
#include <string_view>
#include <type_traits>
#include <utility>

namespace kvshim::simulator {

/// Runs one block (kernel_env::host_block says which); params[i] points to
/// the bytes of parameter i.
using KernelCall = void (*)(void* const* params);

/// Null when there is none. Thread-safe.
KernelCall find_host_kernel(std::string_view name);

namespace host_kernels_detail {

template <class T>
T parameter(const void* bytes) {
  static_assert(std::is_trivially_copyable_v<T>);
  T value;
  std::memcpy(&value, bytes, sizeof(T));  // NOLINT(bugprone-sizeof-expression): T may be a pointer
  return value;
}

template <auto Kernel>
struct Caller;

template <class... Params, void (*Kernel)(Params...)>
struct Caller<Kernel> {
  static void call(void* const* params) { call_with(params, std::index_sequence_for<Params...>{}); }

 private:
  template <std::size_t... I>
  static void call_with([[maybe_unused]] void* const* params, std::index_sequence<I...>) {
    Kernel(parameter<std::remove_cv_t<Params>>(params[I])...);
  }
};

}  // namespace host_kernels_detail

template <auto Kernel>
inline constexpr KernelCall kHostCall = &host_kernels_detail::Caller<Kernel>::call;

}  // namespace kvshim::simulator

/// Adds a kernel from outside (a test's own): `call` as KernelCall. Found by
/// dlsym; the simulator keeps `name`'s text, not the pointer.
extern "C" __attribute__((visibility("default"))) void kvshim_simulator_add_kernel(
    const char* name, void (*call)(void* const* params));
