// The code that is loaded: what modules.cpp and libraries.cpp share.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "tests/simulator/modules.h"

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

struct Library {
  Module* module = nullptr;
  std::vector<Kernel*> kernels;
};

struct LoadedCode {
  std::mutex mutex;
  std::unordered_map<CUmodule, std::unique_ptr<Module>> modules;
  std::unordered_map<CUlibrary, std::unique_ptr<Library>> libraries;
  std::set<Function*> functions;
  std::set<Kernel*> kernels;
  // Unloaded, but perhaps still named by work under way and by graphs.
  std::vector<Function*> ended_functions;
  std::vector<Kernel*> ended_kernels;
};

/// Of the process; all of it under its mutex.
LoadedCode& loaded_code();

inline CUmodule handle_of(Module* module) { return reinterpret_cast<CUmodule>(module); }
inline CUfunction handle_of(Function* function) { return reinterpret_cast<CUfunction>(function); }
inline CUkernel handle_of(Kernel* kernel) { return reinterpret_cast<CUkernel>(kernel); }

/// Reads an image, without the lock: waits for what is executing, as the real driver does.
CUresult make_module(const void* image, std::unique_ptr<Module>* made);
/// The whole file; false when there is none.
bool read_file(const char* name, std::string* text);
/// The lock is held.
Module* register_module(LoadedCode& all, std::unique_ptr<Module> module);
void unload_module(LoadedCode& all, CUmodule handle);

/// What functions and kernels tell alike.
CUresult param_info(const Function& function, std::size_t index, std::size_t* offset,
                    std::size_t* bytes);
CUresult function_attribute(int* value, CUfunction_attribute asked);

}  // namespace kvshim::simulator
