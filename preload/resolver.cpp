// The three ways in. Exported symbols are the wrappers themselves (exports.cpp);
// the other two, dlsym and cuGetProcAddress, ask the real resolver first and then
// swap the pointer it returned when that is the real function of an entry point
// we intercept. So there is no logic of versions and flags here, and never a
// function that the driver lacks.
#include <cuda.h>
#include <dlfcn.h>

#include <cstddef>
#include <span>

#include "preload/exports.h"
#include "preload/hooks.h"
#include "preload/newer_generation.h"
#include "preload/nvml_library.h"
#include "preload/real_dlsym.h"
#include "preload/real_driver.h"
#include "preload/shim.h"

namespace kvshim::preload {

namespace {

/// The wrapper for what a resolver returned, or what it returned.
void* swapped(const char* symbol, void* function) noexcept {
  const int row = entry_point_row(function);
  if (row >= 0) return kExportedWrappers[row];
  // A driver whose own table goes through the global scope names our wrappers.
  for (void* const wrapper : std::span(kExportedWrappers, std::size_t{kEntryPointCount})) {
    if (function == wrapper) return function;
  }
  note_unhooked(symbol, function);
  return function;
}

}  // namespace

CUresult answer_missing() noexcept {
  return real().cuInit == nullptr ? CUDA_ERROR_NO_DEVICE : CUDA_ERROR_NOT_SUPPORTED;
}

CUresult hook_cuInit(unsigned int flags) noexcept {
  const CUresult result = real().cuInit(flags);
  shim_after_cuinit(result);
  if (shim_active()) report_unhooked();
  return result;
}

CUresult hook_cuGetProcAddress(const char* symbol, void** function, int version,
                               cuuint64_t flags) noexcept {
  const CUresult result = real().cuGetProcAddress(symbol, function, version, flags);
  if (result == CUDA_SUCCESS && function != nullptr) *function = swapped(symbol, *function);
  return result;
}

CUresult hook_cuGetProcAddress_v2(const char* symbol, void** function, int version,
                                  cuuint64_t flags,
                                  CUdriverProcAddressQueryResult* status) noexcept {
  const CUresult result = real().cuGetProcAddress_v2(symbol, function, version, flags, status);
  if (result == CUDA_SUCCESS && function != nullptr) *function = swapped(symbol, *function);
  return result;
}

}  // namespace kvshim::preload

extern "C" {

/// Whether `name` is exactly the name of an entry point that we intercept. A
/// prefix would not do: cudnnCreate looked up by cuDNN's own loader ended in a
/// recursion in one peer.
__attribute__((visibility("hidden"))) int kvshim_dlsym_concerns(const char* name) noexcept {
  return kvshim::preload::entry_point_named(name) >= 0 || kvshim::preload::nvml_row_named(name) >= 0
             ? 1
             : 0;
}

/// dlsym of such a name on a real handle. Swapped only when what was found is the
/// real driver's (or NVML's) function: a library of the same names (a stub, another preload)
/// stays what it is.
__attribute__((visibility("hidden"))) void* kvshim_dlsym_swapped(void* handle,
                                                                 const char* name) noexcept {
  namespace preload = kvshim::preload;
  void* function = preload::real_dlsym(handle, name);
  if (function == nullptr) return nullptr;
  if (const int row = preload::nvml_row_named(name); row >= 0) {
    return function == preload::real_nvml_function(row) ? preload::kNvmlWrappers[row] : function;
  }
  const int row = preload::entry_point_named(name);
  if (function != preload::real_function_of_row(row)) return function;
  return preload::kExportedWrappers[row];
}

}  // extern "C"

// The exported dlsym, without a version (it satisfies callers of dlsym@GLIBC_2.2.5
// and of @GLIBC_2.34). What doesn't concern us must be a jump, not a call: with
// RTLD_NEXT and RTLD_DEFAULT the real function finds out from its return address
// which object is asking. A compiler promises no tail call, least of all at -O0,
// hence assembly. RTLD_NEXT (-1) and RTLD_DEFAULT (0) always pass: RTLD_DEFAULT
// finds the wrappers anyway, since a preload comes first in the global scope.
#if defined(__x86_64__)
asm(R"(
  .text
  .globl dlsym
  .type dlsym, @function
  .p2align 4
dlsym:
  .cfi_startproc
  endbr64
  leaq 1(%rdi), %rax
  cmpq $1, %rax
  jbe 1f
  testq %rsi, %rsi
  je 1f
  cmpb $0x63, (%rsi)            # "cu..." and "nv..." only; anything else costs no call
  jne 4f
  cmpb $0x75, 1(%rsi)
  je 3f
1:
  movq kvshim_real_dlsym(%rip), %rax
  testq %rax, %rax
  je 2f
  jmp *%rax
2:
  pushq %rdi
  .cfi_adjust_cfa_offset 8
  pushq %rsi
  .cfi_adjust_cfa_offset 8
  subq $8, %rsp
  .cfi_adjust_cfa_offset 8
  call kvshim_find_real_dlsym
  addq $8, %rsp
  .cfi_adjust_cfa_offset -8
  popq %rsi
  .cfi_adjust_cfa_offset -8
  popq %rdi
  .cfi_adjust_cfa_offset -8
  jmp *%rax
3:
  pushq %rdi
  .cfi_adjust_cfa_offset 8
  pushq %rsi
  .cfi_adjust_cfa_offset 8
  subq $8, %rsp
  .cfi_adjust_cfa_offset 8
  movq %rsi, %rdi
  call kvshim_dlsym_concerns
  addq $8, %rsp
  .cfi_adjust_cfa_offset -8
  popq %rsi
  .cfi_adjust_cfa_offset -8
  popq %rdi
  .cfi_adjust_cfa_offset -8
  testl %eax, %eax
  je 1b
  jmp kvshim_dlsym_swapped
4:
  cmpb $0x6e, (%rsi)
  jne 1b
  cmpb $0x76, 1(%rsi)
  je 3b
  jmp 1b
  .cfi_endproc
  .size dlsym, . - dlsym
)");
#elif defined(KVSHIM_WITHOUT_DLSYM)
// Exported symbols and cuGetProcAddress only: see docs/entry_points.md.
#else
#error "write the pass-through jump of dlsym for this architecture, or define KVSHIM_WITHOUT_DLSYM"
#endif
