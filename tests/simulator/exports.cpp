// The exported symbols. Each is a jump, in assembly so that no argument list
// is written twice, to Export<...>::call, which has the type of its row's
// implementation.
#include <new>

#include "tests/simulator/api.h"
#include "tests/simulator/injection.h"

namespace kvshim::simulator {

thread_local StreamFlavor call_flavor = StreamFlavor::kLegacy;

namespace {

enum Row : unsigned {
#define SIM_ENTRY(name, version, needs) kRow_##name,
#define SIM_STREAM_ENTRY(name, version, suffix, thread_version, needs) \
  kRow_##name, kRow_##name##suffix,
#define SIM_ABSENT(name, version) kRow_##name,
#include "tests/simulator/entry_points.def"
};

template <auto Implementation, unsigned kRow, Needs kNeeds, StreamFlavor kFlavor>
struct Export;

template <class... Args, CUresult (*Implementation)(Args...), unsigned kRow, Needs kNeeds,
          StreamFlavor kFlavor>
struct Export<Implementation, kRow, kNeeds, kFlavor> {
  static CUresult call(Args... args) noexcept {
    if (const CUresult refused = enter(kRow, kNeeds); refused != CUDA_SUCCESS) return refused;
    call_flavor = kFlavor;
    try {
      return Implementation(args...);
    } catch (const std::bad_alloc&) {
      return CUDA_ERROR_OUT_OF_MEMORY;
    }
  }
};

/// Entry points that the simulator resolves but does not have.
template <class Function, unsigned kRow>
struct Absent;

template <class... Args, unsigned kRow>
struct Absent<CUresult (*)(Args...), kRow> {
  static CUresult call(Args...) noexcept {
    if (const CUresult refused = enter(kRow, Needs::kInit); refused != CUDA_SUCCESS) return refused;
    return CUDA_ERROR_NOT_SUPPORTED;
  }
};

}  // namespace

}  // namespace kvshim::simulator

#if defined(__x86_64__)
#define SIM_JUMP(name) "  jmp *kvshim_sim_target_" #name "(%rip)\n"
#elif defined(__aarch64__)
#define SIM_JUMP(name)                              \
  "  adrp x16, kvshim_sim_target_" #name            \
  "\n"                                              \
  "  ldr x16, [x16, :lo12:kvshim_sim_target_" #name \
  "]\n"                                             \
  "  br x16\n"
#else
#error "write the jump for this architecture"
#endif

// kvshim_sim_entry_NAME is the same address under a hidden name: what
// cuGetProcAddress returns must not be a preloaded library's symbol.
#define SIM_SYMBOL(name, target)                                                                \
  extern "C" __attribute__((visibility("hidden"), used)) void* const kvshim_sim_target_##name = \
      reinterpret_cast<void*>(&(target));                                                       \
  __asm__(".text\n.p2align 4\n.globl " #name "\n.type " #name                                   \
          ", %function\n.globl kvshim_sim_entry_" #name "\n.hidden kvshim_sim_entry_" #name     \
          "\n.type kvshim_sim_entry_" #name ", %function\n" #name ":\nkvshim_sim_entry_" #name  \
          ":\n" SIM_JUMP(name) ".size " #name ", .-" #name "\n");

namespace kvshim::simulator {

#define SIM_ENTRY(name, version, needs) \
  using Target_##name = Export<&api::name, kRow_##name, Needs::needs, StreamFlavor::kLegacy>;
#define SIM_STREAM_ENTRY(name, version, suffix, thread_version, needs)                        \
  using Target_##name = Export<&api::name, kRow_##name, Needs::needs, StreamFlavor::kLegacy>; \
  using Target_##name##suffix =                                                               \
      Export<&api::name, kRow_##name##suffix, Needs::needs, StreamFlavor::kPerThread>;
#define SIM_ABSENT(name, version) using Target_##name = Absent<decltype(&::name), kRow_##name>;
#include "tests/simulator/entry_points.def"

}  // namespace kvshim::simulator

#define SIM_ENTRY(name, version, needs) SIM_SYMBOL(name, kvshim::simulator::Target_##name::call)
#define SIM_STREAM_ENTRY(name, version, suffix, thread_version, needs) \
  SIM_SYMBOL(name, kvshim::simulator::Target_##name::call)             \
  SIM_SYMBOL(name##suffix, kvshim::simulator::Target_##name##suffix::call)
#define SIM_ABSENT(name, version) SIM_SYMBOL(name, kvshim::simulator::Target_##name::call)
#include "tests/simulator/entry_points.def"
