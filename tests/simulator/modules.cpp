#include "tests/simulator/modules.h"

#include <cstdio>
#include <memory>
#include <mutex>
#include <set>
#include <unordered_map>

#include "tests/simulator/capture.h"
#include "tests/simulator/memory.h"
#include "tests/simulator/streams.h"

namespace kvshim::simulator {

struct Module {
  Context* context = nullptr;
  CUlibrary library = nullptr;
  std::vector<Function*> functions;
  struct Variable {
    std::string name;
    std::size_t bytes = 0;
    CUdeviceptr address = 0;
  };
  std::vector<Variable> variables;
};

namespace {

struct Library {
  Module* module = nullptr;
  std::vector<Kernel*> kernels;
};

struct Code {
  std::mutex mutex;
  std::unordered_map<CUmodule, std::unique_ptr<Module>> modules;
  std::unordered_map<CUlibrary, std::unique_ptr<Library>> libraries;
  std::set<Function*> functions;
  std::set<Kernel*> kernels;
  // Unloaded, but perhaps still named by work under way and by graphs.
  std::vector<Function*> ended_functions;
  std::vector<Kernel*> ended_kernels;
};

Code& code() {
  static Code* const instance = new Code;
  return *instance;
}

CUmodule handle_of(Module* module) { return reinterpret_cast<CUmodule>(module); }
CUfunction handle_of(Function* function) { return reinterpret_cast<CUfunction>(function); }
CUkernel handle_of(Kernel* kernel) { return reinterpret_cast<CUkernel>(kernel); }

/// Reads the image; the lock is not held.
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

Module* register_module(Code& all, std::unique_ptr<Module> module) {
  Module* result = module.get();
  all.functions.insert(result->functions.begin(), result->functions.end());
  all.modules[handle_of(result)] = std::move(module);
  return result;
}

void unload(Code& all, CUmodule handle) {
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

CUresult load(CUmodule* module, const void* image) {
  if (module == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::unique_ptr<Module> made;
  if (const CUresult bad = make_module(image, &made); bad != CUDA_SUCCESS) return bad;
  Code& all = code();
  const std::lock_guard lock(all.mutex);
  *module = handle_of(register_module(all, std::move(made)));
  return CUDA_SUCCESS;
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

CUresult attribute(int* value, CUfunction_attribute asked) {
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

}  // namespace

Function* find_function(CUfunction handle) {
  Code& all = code();
  const std::lock_guard lock(all.mutex);
  auto* function = reinterpret_cast<Function*>(handle);
  return all.functions.contains(function) ? function : nullptr;
}

Kernel* find_kernel(CUkernel handle) {
  Code& all = code();
  const std::lock_guard lock(all.mutex);
  auto* kernel = reinterpret_cast<Kernel*>(handle);
  return all.kernels.contains(kernel) ? kernel : nullptr;
}

void unload_modules_of(Context* context) {
  Code& all = code();
  const std::lock_guard lock(all.mutex);
  std::vector<CUmodule> ended;
  for (const auto& [handle, module] : all.modules) {
    if (module->context == context && module->library == nullptr) ended.push_back(handle);
  }
  for (CUmodule handle : ended) unload(all, handle);
}

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
  Code& all = code();
  const std::lock_guard lock(all.mutex);
  const auto found = all.modules.find(module);
  if (found == all.modules.end()) return CUDA_ERROR_INVALID_HANDLE;
  if (found->second->library != nullptr) return CUDA_ERROR_NOT_PERMITTED;
  unload(all, module);
  return CUDA_SUCCESS;
}

CUresult api::cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
  if (function == nullptr || name == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Code& all = code();
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
  Code& all = code();
  const std::lock_guard lock(all.mutex);
  const auto found = all.modules.find(module);
  if (count == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (found == all.modules.end()) return CUDA_ERROR_INVALID_HANDLE;
  *count = static_cast<unsigned>(found->second->functions.size());
  return CUDA_SUCCESS;
}

CUresult api::cuModuleEnumerateFunctions(CUfunction* functions, unsigned count, CUmodule module) {
  Code& all = code();
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
  Code& all = code();
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

CUresult api::cuLibraryLoadData(CUlibrary* library, const void* image, CUjit_option*, void**,
                                unsigned, CUlibraryOption*, void**, unsigned) {
  if (library == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::unique_ptr<Module> made;
  if (const CUresult bad = make_module(image, &made); bad != CUDA_SUCCESS) return bad;
  auto owner = std::make_unique<Library>();
  const auto handle = reinterpret_cast<CUlibrary>(owner.get());
  made->library = handle;
  Code& all = code();
  const std::lock_guard lock(all.mutex);
  owner->module = register_module(all, std::move(made));
  for (Function* function : owner->module->functions) {
    auto* kernel = new Kernel{function, handle};
    function->kernel = kernel;
    owner->kernels.push_back(kernel);
    all.kernels.insert(kernel);
  }
  all.libraries[handle] = std::move(owner);
  *library = handle;
  return CUDA_SUCCESS;
}

CUresult api::cuLibraryLoadFromFile(CUlibrary* library, const char* name, CUjit_option*, void**,
                                    unsigned, CUlibraryOption*, void**, unsigned) {
  std::string text;
  if (name == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (!read_file(name, &text)) return CUDA_ERROR_FILE_NOT_FOUND;
  return api::cuLibraryLoadData(library, text.c_str(), nullptr, nullptr, 0, nullptr, nullptr, 0);
}

CUresult api::cuLibraryUnload(CUlibrary library) {
  Code& all = code();
  const std::lock_guard lock(all.mutex);
  const auto found = all.libraries.find(library);
  if (found == all.libraries.end()) return CUDA_ERROR_INVALID_HANDLE;
  for (Kernel* kernel : found->second->kernels) {
    all.kernels.erase(kernel);
    all.ended_kernels.push_back(kernel);
  }
  unload(all, handle_of(found->second->module));
  all.libraries.erase(found);
  return CUDA_SUCCESS;
}

CUresult api::cuLibraryGetKernel(CUkernel* kernel, CUlibrary library, const char* name) {
  if (kernel == nullptr || name == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Code& all = code();
  const std::lock_guard lock(all.mutex);
  const auto found = all.libraries.find(library);
  if (found == all.libraries.end()) return CUDA_ERROR_INVALID_HANDLE;
  for (Kernel* candidate : found->second->kernels) {
    if (candidate->function->name != name) continue;
    *kernel = handle_of(candidate);
    return CUDA_SUCCESS;
  }
  return CUDA_ERROR_NOT_FOUND;
}

CUresult api::cuLibraryGetKernelCount(unsigned* count, CUlibrary library) {
  Code& all = code();
  const std::lock_guard lock(all.mutex);
  const auto found = all.libraries.find(library);
  if (count == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (found == all.libraries.end()) return CUDA_ERROR_INVALID_HANDLE;
  *count = static_cast<unsigned>(found->second->kernels.size());
  return CUDA_SUCCESS;
}

CUresult api::cuLibraryEnumerateKernels(CUkernel* kernels, unsigned count, CUlibrary library) {
  Code& all = code();
  const std::lock_guard lock(all.mutex);
  const auto found = all.libraries.find(library);
  if (kernels == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (found == all.libraries.end()) return CUDA_ERROR_INVALID_HANDLE;
  for (unsigned i = 0; i < count && i < found->second->kernels.size(); ++i) {
    kernels[i] = handle_of(found->second->kernels[i]);
  }
  return CUDA_SUCCESS;
}

CUresult api::cuLibraryGetModule(CUmodule* module, CUlibrary library) {
  Code& all = code();
  const std::lock_guard lock(all.mutex);
  const auto found = all.libraries.find(library);
  if (module == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (found == all.libraries.end()) return CUDA_ERROR_INVALID_HANDLE;
  *module = handle_of(found->second->module);
  return CUDA_SUCCESS;
}

CUresult api::cuLibraryGetGlobal(CUdeviceptr* address, std::size_t* bytes, CUlibrary library,
                                 const char* name) {
  CUmodule module = nullptr;
  if (const CUresult bad = api::cuLibraryGetModule(&module, library); bad != CUDA_SUCCESS) {
    return bad;
  }
  return api::cuModuleGetGlobal_v2(address, bytes, module, name);
}

CUresult api::cuKernelGetFunction(CUfunction* function, CUkernel handle) {
  const Kernel* kernel = find_kernel(handle);
  if (kernel == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (function == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *function = handle_of(kernel->function);
  return CUDA_SUCCESS;
}

CUresult api::cuKernelGetLibrary(CUlibrary* library, CUkernel handle) {
  const Kernel* kernel = find_kernel(handle);
  if (kernel == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (library == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *library = kernel->library;
  return CUDA_SUCCESS;
}

CUresult api::cuKernelGetName(const char** name, CUkernel handle) {
  const Kernel* kernel = find_kernel(handle);
  if (kernel == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (name == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *name = kernel->function->name.c_str();
  return CUDA_SUCCESS;
}

CUresult api::cuKernelGetParamInfo(CUkernel handle, std::size_t index, std::size_t* offset,
                                   std::size_t* bytes) {
  const Kernel* kernel = find_kernel(handle);
  if (kernel == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  return param_info(*kernel->function, index, offset, bytes);
}

CUresult api::cuKernelGetAttribute(int* value, CUfunction_attribute asked, CUkernel handle,
                                   CUdevice device) {
  if (find_kernel(handle) == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (device != 0) return CUDA_ERROR_INVALID_DEVICE;
  return attribute(value, asked);
}

CUresult api::cuKernelSetAttribute(CUfunction_attribute, int, CUkernel handle, CUdevice) {
  return find_kernel(handle) == nullptr ? CUDA_ERROR_INVALID_HANDLE : CUDA_SUCCESS;
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
  return attribute(value, asked);
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
