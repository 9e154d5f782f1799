// Modules and libraries: what is known of their functions goes with them. Loads
// need nothing, an entry can't outlive its module.
#include "preload/function_info.h"
#include "preload/hooks.h"
#include "preload/real_driver.h"

namespace kvshim::preload {

CUresult hook_cuModuleLoad(CUmodule* module, const char* file) noexcept {
  return real().cuModuleLoad(module, file);
}

CUresult hook_cuModuleLoadData(CUmodule* module, const void* image) noexcept {
  return real().cuModuleLoadData(module, image);
}

CUresult hook_cuModuleLoadDataEx(CUmodule* module, const void* image, unsigned int count,
                                 CUjit_option* options, void** values) noexcept {
  return real().cuModuleLoadDataEx(module, image, count, options, values);
}

CUresult hook_cuModuleLoadFatBinary(CUmodule* module, const void* image) noexcept {
  return real().cuModuleLoadFatBinary(module, image);
}

CUresult hook_cuModuleUnload(CUmodule module) noexcept {
  forget_module(module);
  return real().cuModuleUnload(module);
}

CUresult hook_cuLibraryLoadData(CUlibrary* library, const void* code, CUjit_option* jit_options,
                                void** jit_values, unsigned int jit_count, CUlibraryOption* options,
                                void** values, unsigned int count) noexcept {
  return real().cuLibraryLoadData(library, code, jit_options, jit_values, jit_count, options,
                                  values, count);
}

CUresult hook_cuLibraryLoadFromFile(CUlibrary* library, const char* file, CUjit_option* jit_options,
                                    void** jit_values, unsigned int jit_count,
                                    CUlibraryOption* options, void** values,
                                    unsigned int count) noexcept {
  return real().cuLibraryLoadFromFile(library, file, jit_options, jit_values, jit_count, options,
                                      values, count);
}

CUresult hook_cuLibraryUnload(CUlibrary library) noexcept {
  forget_library(library);
  return real().cuLibraryUnload(library);
}

}  // namespace kvshim::preload
