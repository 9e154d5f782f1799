// Records of pools are never freed: a reader without a lock may still hold one.
extern "C" __attribute__((visibility("default"))) const char* __lsan_default_suppressions() {
  return "leak:kvshim::vmm::DeviceMemory::allocate\n";
}
