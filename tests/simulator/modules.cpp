// Modules and their functions.
#include <memory>
#include <utility>

#include "tests/simulator/capture.h"
#include "tests/simulator/loaded_code.h"

namespace kvshim::simulator {
namespace {

CUresult load(CUmodule* module, const void* image) {
  if (module == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::unique_ptr<Module> made;
  if (const CUresult bad = make_module(image, &made); bad != CUDA_SUCCESS) return bad;
  LoadedCode& all = loaded_code();
  const std::lock_guard lock(all.mutex);
  *module = handle_of(register_module(all, std::move(made)));
  return CUDA_SUCCESS;
}

}  // namespace

CUresult api::cuModuleLoadData(CUmodule* module, const void* image) { return load(module, image); }

CUresult api::cuModuleLoadDataEx(CUmodule* module, const void* image, unsigned, CUjit_option*,
                                 void**) {
  return load(module, image);
}

CUresult api::cuModuleLoad(CUmodule* module, const char* name) {
  std::string text;
  if (name == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (!read_file(name, &text)) return CUDA_ERROR_FILE_NOT_FOUND;
  return load(module, text.c_str());
}

CUresult api::cuModuleUnload(CUmodule module) {
  if (const CUresult refused = refuse_unsafe_call(); refused != CUDA_SUCCESS) return refused;
  LoadedCode& all = loaded_code();
  const std::lock_guard lock(all.mutex);
  const auto found = all.modules.find(module);
  if (found == all.modules.end()) return CUDA_ERROR_INVALID_HANDLE;
  if (found->second->library != nullptr) return CUDA_ERROR_NOT_PERMITTED;
  unload_module(all, module);
  return CUDA_SUCCESS;
}

CUresult api::cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
  if (function == nullptr || name == nullptr) return CUDA_ERROR_INVALID_VALUE;
  LoadedCode& all = loaded_code();
  const std::lock_guard lock(all.mutex);
  const auto found = all.modules.find(module);
  if (found == all.modules.end()) return CUDA_ERROR_INVALID_HANDLE;
  for (Function* candidate : found->second->functions) {
    if (candidate->name != name) continue;
    *function = handle_of(candidate);
    return CUDA_SUCCESS;
  }
  return CUDA_ERROR_NOT_FOUND;
}

CUresult api::cuModuleGetFunctionCount(unsigned* count, CUmodule module) {
  LoadedCode& all = loaded_code();
  const std::lock_guard lock(all.mutex);
  const auto found = all.modules.find(module);
  if (count == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (found == all.modules.end()) return CUDA_ERROR_INVALID_HANDLE;
  *count = static_cast<unsigned>(found->second->functions.size());
  return CUDA_SUCCESS;
}

CUresult api::cuModuleEnumerateFunctions(CUfunction* functions, unsigned count, CUmodule module) {
  LoadedCode& all = loaded_code();
  const std::lock_guard lock(all.mutex);
  const auto found = all.modules.find(module);
  if (functions == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (found == all.modules.end()) return CUDA_ERROR_INVALID_HANDLE;
  for (unsigned i = 0; i < count && i < found->second->functions.size(); ++i) {
    functions[i] = handle_of(found->second->functions[i]);
  }
  return CUDA_SUCCESS;
}

CUresult api::cuModuleGetGlobal_v2(CUdeviceptr* address, std::size_t* bytes, CUmodule module,
                                   const char* name) {
  if (name == nullptr) return CUDA_ERROR_INVALID_VALUE;
  LoadedCode& all = loaded_code();
  const std::lock_guard lock(all.mutex);
  const auto found = all.modules.find(module);
  if (found == all.modules.end()) return CUDA_ERROR_INVALID_HANDLE;
  for (const auto& variable : found->second->variables) {
    if (variable.name != name) continue;
    if (address != nullptr) *address = variable.address;
    if (bytes != nullptr) *bytes = variable.bytes;
    return CUDA_SUCCESS;
  }
  return CUDA_ERROR_NOT_FOUND;
}

CUresult api::cuModuleGetLoadingMode(CUmoduleLoadingMode* mode) {
  if (mode == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *mode = CU_MODULE_LAZY_LOADING;
  return CUDA_SUCCESS;
}

CUresult api::cuFuncGetName(const char** name, CUfunction handle) {
  const Function* function = find_function(handle);
  if (function == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (name == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *name = function->name.c_str();
  return CUDA_SUCCESS;
}

CUresult api::cuFuncGetParamInfo(CUfunction handle, std::size_t index, std::size_t* offset,
                                 std::size_t* bytes) {
  const Function* function = find_function(handle);
  if (function == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  return param_info(*function, index, offset, bytes);
}

CUresult api::cuFuncGetModule(CUmodule* module, CUfunction handle) {
  const Function* function = find_function(handle);
  if (function == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (module == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *module = handle_of(function->module);
  return CUDA_SUCCESS;
}

CUresult api::cuFuncGetAttribute(int* value, CUfunction_attribute asked, CUfunction handle) {
  if (find_function(handle) == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  return function_attribute(value, asked);
}

CUresult api::cuFuncSetAttribute(CUfunction handle, CUfunction_attribute, int) {
  return find_function(handle) == nullptr ? CUDA_ERROR_INVALID_HANDLE : CUDA_SUCCESS;
}

CUresult api::cuFuncSetCacheConfig(CUfunction handle, CUfunc_cache) {
  return find_function(handle) == nullptr ? CUDA_ERROR_INVALID_HANDLE : CUDA_SUCCESS;
}

CUresult api::cuFuncIsLoaded(CUfunctionLoadingState* state, CUfunction handle) {
  if (find_function(handle) == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (state == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *state = CU_FUNCTION_LOADING_STATE_LOADED;
  return CUDA_SUCCESS;
}

CUresult api::cuFuncLoad(CUfunction handle) {
  return find_function(handle) == nullptr ? CUDA_ERROR_INVALID_HANDLE : CUDA_SUCCESS;
}

}  // namespace kvshim::simulator
