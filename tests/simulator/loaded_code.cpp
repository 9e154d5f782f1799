#include "tests/simulator/loaded_code.h"

#include <cstdio>
#include <utility>

#include "tests/simulator/memory.h"
#include "tests/simulator/streams.h"

namespace kvshim::simulator {

LoadedCode& loaded_code() {
  static LoadedCode* const instance = new LoadedCode;
  return *instance;
}

CUresult make_module(const void* image, std::unique_ptr<Module>* made) {
  if (image == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const char* text = static_cast<const char*>(image);
  // A binary image begins with its own magic number, PTX with text.
  if (text[0] == '\x7f' || text[0] == '\x50') return CUDA_ERROR_NO_BINARY_FOR_GPU;
  auto ptx = read_ptx(text);
  if (!ptx) return CUDA_ERROR_INVALID_PTX;
  // Loading waits for what is executing, as on the real driver (measured).
  wait_for_running_work();
  auto module = std::make_unique<Module>();
  module->context = current_context();
  for (PtxEntry& entry : ptx->entries) {
    auto* function = new Function;
    function->name = std::move(entry.name);
    function->params = std::move(entry.params);
    function->params_bytes = entry.params_bytes;
    function->call = find_host_kernel(function->name);
    function->module = module.get();
    module->functions.push_back(function);
  }
  for (const PtxVariable& variable : ptx->variables) {
    Module::Variable made_variable{variable.name, variable.bytes};
    if (variable.bytes != 0) {
      const CUresult result =
          allocate_device(module->context, variable.bytes, nullptr, &made_variable.address);
      if (result != CUDA_SUCCESS) return result;
    }
    module->variables.push_back(std::move(made_variable));
  }
  *made = std::move(module);
  return CUDA_SUCCESS;
}

Module* register_module(LoadedCode& all, std::unique_ptr<Module> module) {
  Module* result = module.get();
  all.functions.insert(result->functions.begin(), result->functions.end());
  all.modules[handle_of(result)] = std::move(module);
  return result;
}

void unload_module(LoadedCode& all, CUmodule handle) {
  const auto found = all.modules.find(handle);
  if (found == all.modules.end()) return;
  for (Function* function : found->second->functions) {
    function->loaded = false;
    all.functions.erase(function);
    all.ended_functions.push_back(function);
  }
  for (const auto& variable : found->second->variables) {
    if (variable.address != 0) free_device(variable.address);
  }
  all.modules.erase(found);
}

bool read_file(const char* name, std::string* text) {
  std::FILE* file = std::fopen(name, "re");
  if (file == nullptr) return false;
  char part[4096];
  for (std::size_t got = 0; (got = std::fread(part, 1, sizeof part, file)) != 0;) {
    text->append(part, got);
  }
  std::fclose(file);
  return true;
}

CUresult param_info(const Function& function, std::size_t index, std::size_t* offset,
                    std::size_t* bytes) {
  if (offset == nullptr || index >= function.params.size()) return CUDA_ERROR_INVALID_VALUE;
  *offset = function.params[index].offset;
  if (bytes != nullptr) *bytes = function.params[index].bytes;
  return CUDA_SUCCESS;
}

CUresult function_attribute(int* value, CUfunction_attribute asked) {
  if (value == nullptr) return CUDA_ERROR_INVALID_VALUE;
  switch (asked) {
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
      *value = 1024;
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_NUM_REGS:
      *value = 32;
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_PTX_VERSION:
    case CU_FUNC_ATTRIBUTE_BINARY_VERSION:
      *value = 90;
      return CUDA_SUCCESS;
    default:
      *value = 0;
      return asked < CU_FUNC_ATTRIBUTE_MAX ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
  }
}

Function* find_function(CUfunction handle) {
  LoadedCode& all = loaded_code();
  const std::lock_guard lock(all.mutex);
  auto* function = reinterpret_cast<Function*>(handle);
  return all.functions.contains(function) ? function : nullptr;
}

Kernel* find_kernel(CUkernel handle) {
  LoadedCode& all = loaded_code();
  const std::lock_guard lock(all.mutex);
  auto* kernel = reinterpret_cast<Kernel*>(handle);
  return all.kernels.contains(kernel) ? kernel : nullptr;
}

void unload_modules_of(Context* context) {
  LoadedCode& all = loaded_code();
  const std::lock_guard lock(all.mutex);
  std::vector<CUmodule> ended;
  for (const auto& [handle, module] : all.modules) {
    if (module->context == context && module->library == nullptr) ended.push_back(handle);
  }
  for (CUmodule handle : ended) unload_module(all, handle);
}

}  // namespace kvshim::simulator
