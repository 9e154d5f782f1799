// Libraries and their kernels: code that belongs to no context.
#include <memory>
#include <utility>

#include "tests/simulator/loaded_code.h"

namespace kvshim::simulator {

CUresult api::cuLibraryLoadData(CUlibrary* library, const void* image, CUjit_option*, void**,
                                unsigned, CUlibraryOption*, void**, unsigned) {
  if (library == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::unique_ptr<Module> made;
  if (const CUresult bad = make_module(image, &made); bad != CUDA_SUCCESS) return bad;
  auto owner = std::make_unique<Library>();
  const auto handle = reinterpret_cast<CUlibrary>(owner.get());
  made->library = handle;
  LoadedCode& all = loaded_code();
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
  LoadedCode& all = loaded_code();
  const std::lock_guard lock(all.mutex);
  const auto found = all.libraries.find(library);
  if (found == all.libraries.end()) return CUDA_ERROR_INVALID_HANDLE;
  for (Kernel* kernel : found->second->kernels) {
    all.kernels.erase(kernel);
    all.ended_kernels.push_back(kernel);
  }
  unload_module(all, handle_of(found->second->module));
  all.libraries.erase(found);
  return CUDA_SUCCESS;
}

CUresult api::cuLibraryGetKernel(CUkernel* kernel, CUlibrary library, const char* name) {
  if (kernel == nullptr || name == nullptr) return CUDA_ERROR_INVALID_VALUE;
  LoadedCode& all = loaded_code();
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
  LoadedCode& all = loaded_code();
  const std::lock_guard lock(all.mutex);
  const auto found = all.libraries.find(library);
  if (count == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (found == all.libraries.end()) return CUDA_ERROR_INVALID_HANDLE;
  *count = static_cast<unsigned>(found->second->kernels.size());
  return CUDA_SUCCESS;
}

CUresult api::cuLibraryEnumerateKernels(CUkernel* kernels, unsigned count, CUlibrary library) {
  LoadedCode& all = loaded_code();
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
  LoadedCode& all = loaded_code();
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
  return function_attribute(value, asked);
}

CUresult api::cuKernelSetAttribute(CUfunction_attribute, int, CUkernel handle, CUdevice) {
  return find_kernel(handle) == nullptr ? CUDA_ERROR_INVALID_HANDLE : CUDA_SUCCESS;
}

}  // namespace kvshim::simulator
