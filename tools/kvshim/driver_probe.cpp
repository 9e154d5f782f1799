#include "tools/kvshim/driver_probe.h"

#include <cuda.h>
#include <dlfcn.h>

#include <array>
#include <cstring>
#include <nlohmann/json.hpp>

#include "segment/layout.h"
#include "tools/kvshim/child_process.h"
#include "tools/kvshim/json_output.h"
#include "tools/kvwrap/library_location.h"

namespace kvshim::cli {
namespace {

using nlohmann::json;

template <class Function>
Function* symbol(void* library, const char* name) {
  return reinterpret_cast<Function*>(::dlsym(library, name));
}

int attribute(void* library, CUdevice_attribute which, CUdevice device) {
  auto* get = symbol<CUresult(int*, CUdevice_attribute, CUdevice)>(library, "cuDeviceGetAttribute");
  int value = 0;
  return get != nullptr && get(&value, which, device) == CUDA_SUCCESS ? value : 0;
}

json gpu_of(void* library, int index) {
  auto* get = symbol<CUresult(CUdevice*, int)>(library, "cuDeviceGet");
  auto* name = symbol<CUresult(char*, int, CUdevice)>(library, "cuDeviceGetName");
  auto* total = symbol<CUresult(std::size_t*, CUdevice)>(library, "cuDeviceTotalMem_v2");
  auto* uuid = symbol<CUresult(CUuuid*, CUdevice)>(library, "cuDeviceGetUuid");
  if (auto* newer = symbol<CUresult(CUuuid*, CUdevice)>(library, "cuDeviceGetUuid_v2"))
    uuid = newer;
  CUdevice device = 0;
  if (get == nullptr || get(&device, index) != CUDA_SUCCESS) return nullptr;
  std::array<char, 96> text{};
  std::size_t bytes = 0;
  CUuuid id{};
  json gpu;
  if (name != nullptr && name(text.data(), text.size() - 1, device) == CUDA_SUCCESS) {
    gpu["name"] = text.data();
  }
  if (total != nullptr && total(&bytes, device) == CUDA_SUCCESS) gpu["total"] = bytes;
  if (uuid != nullptr && uuid(&id, device) == CUDA_SUCCESS) {
    std::array<unsigned char, 16> plain{};
    std::memcpy(plain.data(), id.bytes, plain.size());
    gpu["uuid"] = segment::uuid_text(plain);
  }
  gpu["compute"] = attribute(library, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device) * 10 +
                   attribute(library, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device);
  gpu["vmm"] =
      attribute(library, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, device) != 0;
  gpu["mps"] = attribute(library, CU_DEVICE_ATTRIBUTE_MPS_ENABLED, device) != 0;
  return gpu;
}

json facts_of(void* library) {
  json facts;
  Dl_info info{};
  void* const init_address = ::dlsym(library, "cuInit");
  if (init_address != nullptr && ::dladdr(init_address, &info) != 0) facts["path"] = info.dli_fname;
  auto* init = symbol<CUresult(unsigned)>(library, "cuInit");
  auto* version = symbol<CUresult(int*)>(library, "cuDriverGetVersion");
  auto* error_name = symbol<CUresult(CUresult, const char**)>(library, "cuGetErrorName");
  auto* count = symbol<CUresult(int*)>(library, "cuDeviceGetCount");
  if (init == nullptr || version == nullptr || count == nullptr) {
    facts["failure"] = "it lacks basic functions of the driver";
    return facts;
  }
  int number = 0;
  if (version(&number) == CUDA_SUCCESS) facts["version"] = number;
  facts["param_info"] = ::dlsym(library, "cuFuncGetParamInfo") != nullptr;
  const CUresult result = init(0);
  if (result != CUDA_SUCCESS) {
    const char* text = nullptr;
    if (error_name != nullptr) error_name(result, &text);
    facts["failure"] = "cuInit answers " + std::string(text != nullptr ? text : "an error") + " (" +
                       std::to_string(result) + ")";
    return facts;
  }
  int gpus = 0;
  count(&gpus);
  for (int i = 0; i < gpus; ++i) facts["gpus"].push_back(gpu_of(library, i));
  return facts;
}

}  // namespace

Exit print_driver_facts() {
  json facts;
  void* library = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* reason = ::dlerror();
    facts["failure"] = reason != nullptr ? reason : "libcuda.so.1 can't be loaded";
  } else {
    facts = facts_of(library);
  }
  print_json(facts);
  return Exit::kDone;
}

DriverFacts probe_driver(double seconds) {
  DriverFacts facts;
  const ChildResult child =
      run_child({kvwrap::own_path(), kProbeArgument}, {"LD_PRELOAD"}, seconds);
  const json document = json::parse(child.output, nullptr, false);
  if (!child.failure.empty()) {
    facts.failure = "the driver could not be asked: " + child.failure;
  } else if (child.timed_out) {
    facts.failure = "the driver did not answer within " +
                    std::to_string(static_cast<int>(seconds)) + " s (hung?)";
  } else if (child.signal != 0) {
    facts.failure =
        std::string("the driver ends the program that asks it: ") + ::strsignal(child.signal);
  } else if (!document.is_object()) {
    facts.failure = "the driver's answer makes no sense";
  }
  if (!facts.failure.empty()) return facts;
  facts.failure = printable(document.value("failure", ""), 1024);
  facts.path = document.value("path", "");
  facts.version = document.value("version", 0);
  facts.param_info = document.value("param_info", false);
  if (!document.contains("gpus")) return facts;
  for (const json& gpu : document["gpus"]) {
    if (!gpu.is_object()) continue;
    facts.gpus.push_back({printable(gpu.value("name", "")), printable(gpu.value("uuid", "")),
                          gpu.value("total", std::uint64_t{0}), gpu.value("compute", 0),
                          gpu.value("vmm", false), gpu.value("mps", false)});
  }
  return facts;
}

}  // namespace kvshim::cli
