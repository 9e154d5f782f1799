// A library that is linked to NVML.
int nvmlDeviceGetMemoryInfo(void* device, void* memory);
int nvmlDeviceGetMemoryInfo_v2(void* device, void* memory);

int linked_memory_info(void* device, void* memory) {
  return nvmlDeviceGetMemoryInfo(device, memory);
}
int linked_memory_info_v2(void* device, void* memory) {
  return nvmlDeviceGetMemoryInfo_v2(device, memory);
}
