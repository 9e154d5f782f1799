// Ordinary memory and what can be asked about addresses.
#include <sys/mman.h>

#include "tests/simulator/gpu_test.h"

namespace kvshim::simulator {
namespace {

class MemoryTest : public GpuTest {
 protected:
  template <class T>
  T attribute(CUpointer_attribute asked, CUdeviceptr address) {
    T value{};
    EXPECT_DONE(cuPointerGetAttribute(&value, asked, address));
    return value;
  }
};

TEST_F(MemoryTest, LargeAllocationsTakeWholeGranules) {
  std::size_t before = 0, held = 0, after = 0, total = 0;
  ASSERT_DONE(cuMemGetInfo(&before, &total));
  CUdeviceptr address = 0;
  ASSERT_DONE(cuMemAlloc(&address, (std::size_t{64} << 20) + 1));
  ASSERT_DONE(cuMemGetInfo(&held, &total));
  EXPECT_EQ(std::size_t{66} << 20, before - held);
  EXPECT_EQ(0u, address % kGranule);
  ASSERT_DONE(cuMemFree(address));
  ASSERT_DONE(cuMemGetInfo(&after, &total));
  EXPECT_EQ(before, after);
}

TEST_F(MemoryTest, SmallAllocationsDoNotOverlap) {
  std::vector<CUdeviceptr> addresses;
  for (unsigned i = 0; i < 100; ++i) {
    addresses.push_back(allocate(1000 + i * 64));
    ASSERT_DONE(cuMemsetD8(addresses.back(), static_cast<unsigned char>(i), 1000 + i * 64));
  }
  for (unsigned i = 0; i < 100; ++i) {
    std::vector<unsigned char> bytes(1000 + i * 64);
    ASSERT_DONE(cuMemcpyDtoH(bytes.data(), addresses[i], bytes.size()));
    EXPECT_EQ(bytes, std::vector<unsigned char>(bytes.size(), static_cast<unsigned char>(i)));
  }
  for (const CUdeviceptr address : addresses) EXPECT_DONE(cuMemFree(address));
}

TEST_F(MemoryTest, SaysNoWhenMemoryIsOut) {
  std::size_t free_bytes = 0, total = 0;
  ASSERT_DONE(cuMemGetInfo(&free_bytes, &total));
  CUdeviceptr address = 0;
  EXPECT_RESULT(CUDA_ERROR_OUT_OF_MEMORY, cuMemAlloc(&address, free_bytes + kGranule));
  EXPECT_DONE(cuCtxSynchronize());
}

TEST_F(MemoryTest, SaysNoToSizesThatWouldOverflow) {
  CUdeviceptr address = 0;
  std::size_t pitch = 0;
  void* host = nullptr;
  for (const std::size_t bytes : {SIZE_MAX, SIZE_MAX - kGranule - 1, SIZE_MAX / 2}) {
    EXPECT_RESULT(CUDA_ERROR_OUT_OF_MEMORY, cuMemAlloc(&address, bytes));
    if (!on_simulator()) continue;
    EXPECT_RESULT(CUDA_ERROR_OUT_OF_MEMORY, cuMemAllocAsync(&address, bytes, nullptr));
    EXPECT_RESULT(CUDA_ERROR_OUT_OF_MEMORY, cuMemAllocPitch(&address, &pitch, bytes, 4, 4));
    EXPECT_RESULT(CUDA_ERROR_OUT_OF_MEMORY, cuMemHostAlloc(&host, bytes, 0));
    EXPECT_RESULT(CUDA_ERROR_OUT_OF_MEMORY,
                  cuMemAllocManaged(&address, bytes, CU_MEM_ATTACH_GLOBAL));
  }
}

TEST_F(MemoryTest, FreeRefusesWhatIsNoStart) {
  const CUdeviceptr address = allocate(4096);
  EXPECT_RESULT(CUDA_ERROR_INVALID_VALUE, cuMemFree(address + 512));
  EXPECT_DONE(cuMemFree(address));
  EXPECT_DONE(cuMemFree(0));
}

TEST_F(MemoryTest, AnswersForAnAllocation) {
  const std::size_t bytes = std::size_t{16} << 20;
  const CUdeviceptr address = allocate(bytes);
  const CUdeviceptr inside = address + 4096;
  EXPECT_EQ(context_, attribute<CUcontext>(CU_POINTER_ATTRIBUTE_CONTEXT, inside));
  EXPECT_EQ(unsigned{CU_MEMORYTYPE_DEVICE},
            attribute<unsigned>(CU_POINTER_ATTRIBUTE_MEMORY_TYPE, inside));
  EXPECT_EQ(1u, attribute<unsigned>(CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE, inside));
  EXPECT_EQ(address, attribute<CUdeviceptr>(CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, inside));
  EXPECT_EQ(bytes, attribute<std::size_t>(CU_POINTER_ATTRIBUTE_RANGE_SIZE, inside));
  EXPECT_EQ(1u, attribute<unsigned>(CU_POINTER_ATTRIBUTE_MAPPED, inside));
  CUdeviceptr base = 0;
  std::size_t size = 0;
  EXPECT_DONE(cuMemGetAddressRange(&base, &size, inside));
  EXPECT_EQ(address, base);
  EXPECT_EQ(bytes, size);
  CUmemGenericAllocationHandle handle = 0;
  EXPECT_RESULT(CUDA_ERROR_INVALID_VALUE,
                cuMemRetainAllocationHandle(&handle, reinterpret_cast<void*>(address)));
  CUipcMemHandle ipc{};
  EXPECT_DONE(cuIpcGetMemHandle(&ipc, address));
  EXPECT_DONE(cuMemFree(address));
}

TEST_F(MemoryTest, AnswersForAMapping) {
  MappedSpace space(32);
  ASSERT_DONE(space.map(0, 1, space.make(1)));
  ASSERT_DONE(space.map(1, 2, space.make(2)));
  ASSERT_DONE(space.access(0, 3));
  const CUdeviceptr inside = space.at(1) + kGranule;
  EXPECT_EQ(nullptr, attribute<CUcontext>(CU_POINTER_ATTRIBUTE_CONTEXT, inside));
  EXPECT_EQ(0u, attribute<unsigned>(CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE, inside));
  EXPECT_EQ(space.at(0), attribute<CUdeviceptr>(CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, inside))
      << "the reservation";
  EXPECT_EQ(32 * kGranule, attribute<std::size_t>(CU_POINTER_ATTRIBUTE_RANGE_SIZE, inside));
  EXPECT_EQ(2 * kGranule, attribute<std::size_t>(CU_POINTER_ATTRIBUTE_MAPPING_SIZE, inside));
  EXPECT_EQ(space.at(1), attribute<CUdeviceptr>(CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR, inside));
  EXPECT_NE(attribute<unsigned long long>(CU_POINTER_ATTRIBUTE_BUFFER_ID, space.at(0)),
            attribute<unsigned long long>(CU_POINTER_ATTRIBUTE_BUFFER_ID, inside));
  CUdeviceptr base = 0;
  std::size_t size = 0;
  EXPECT_DONE(cuMemGetAddressRange(&base, &size, inside));
  EXPECT_EQ(space.at(1), base) << "the one mapping";
  EXPECT_EQ(2 * kGranule, size);
  CUipcMemHandle ipc{};
  EXPECT_RESULT(CUDA_ERROR_INVALID_VALUE, cuIpcGetMemHandle(&ipc, inside));
}

TEST_F(MemoryTest, AnswersForAMappingWithoutAccess) {
  MappedSpace space(4);
  ASSERT_DONE(space.map(0, 1, space.make(1)));
  EXPECT_EQ(0u, attribute<unsigned>(CU_POINTER_ATTRIBUTE_ACCESS_FLAGS, space.at(0)));
  CUdeviceptr base = 0;
  EXPECT_RESULT(CUDA_ERROR_INVALID_VALUE,
                cuPointerGetAttribute(&base, CU_POINTER_ATTRIBUTE_DEVICE_POINTER, space.at(0)));
  EXPECT_RESULT(CUDA_ERROR_NOT_FOUND, cuMemGetAddressRange(&base, nullptr, space.at(0)));
}

TEST_F(MemoryTest, KnowsNothingOfReservedAndWildAddresses) {
  MappedSpace space(4);
  for (const CUdeviceptr address : {space.at(1), CUdeviceptr{0x1234'5678'9000}}) {
    for (const auto asked : {CU_POINTER_ATTRIBUTE_CONTEXT, CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
                             CU_POINTER_ATTRIBUTE_RANGE_SIZE, CU_POINTER_ATTRIBUTE_MAPPED}) {
      unsigned long long value = 0;
      EXPECT_RESULT(CUDA_ERROR_INVALID_VALUE, cuPointerGetAttribute(&value, asked, address));
    }
    CUdeviceptr base = 0;
    EXPECT_RESULT(CUDA_ERROR_NOT_FOUND, cuMemGetAddressRange(&base, nullptr, address));
    CUpointer_attribute asked = CU_POINTER_ATTRIBUTE_MEMORY_TYPE;
    unsigned type = 99;
    void* place = &type;
    EXPECT_DONE(cuPointerGetAttributes(1, &asked, &place, address));
    EXPECT_EQ(0u, type);
  }
}

TEST_F(MemoryTest, PinnedHostMemoryHasItsDeviceAddress) {
  void* host = nullptr;
  ASSERT_DONE(cuMemHostAlloc(&host, 4096, CU_MEMHOSTALLOC_DEVICEMAP));
  CUdeviceptr device = 0;
  ASSERT_DONE(cuMemHostGetDevicePointer(&device, host, 0));
  EXPECT_EQ(unsigned{CU_MEMORYTYPE_HOST},
            attribute<unsigned>(CU_POINTER_ATTRIBUTE_MEMORY_TYPE, device));
  *static_cast<unsigned*>(host) = 6;
  const CUdeviceptr to = allocate(4);
  ASSERT_DONE(launch(kernel("kvshim_test_copy_plus_one"), nullptr, to, device));
  EXPECT_EQ(7u, read_word(to));
  EXPECT_DONE(cuMemFree(to));
  EXPECT_DONE(cuMemFreeHost(host));
}

TEST_F(MemoryTest, OrdinaryHostMemoryCanBeRegisteredOnce) {
  void* host = mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CUdeviceptr device = 0;
  EXPECT_RESULT(CUDA_ERROR_INVALID_VALUE, cuMemHostGetDevicePointer(&device, host, 0));
  ASSERT_DONE(cuMemHostRegister(host, 1 << 20, CU_MEMHOSTREGISTER_DEVICEMAP));
  EXPECT_RESULT(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED,
                cuMemHostRegister(host, 1 << 20, CU_MEMHOSTREGISTER_DEVICEMAP));
  EXPECT_DONE(cuMemHostGetDevicePointer(&device, host, 0));
  EXPECT_DONE(cuMemHostUnregister(host));
  EXPECT_RESULT(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, cuMemHostUnregister(host));
  munmap(host, 1 << 20);
}

TEST_F(MemoryTest, PitchedAllocationsHaveRoomForEveryRow) {
  CUdeviceptr address = 0;
  std::size_t pitch = 0;
  ASSERT_DONE(cuMemAllocPitch(&address, &pitch, 1000, 50, 4));
  EXPECT_GE(pitch, 1000u);
  EXPECT_DONE(cuMemsetD2D8(address, pitch, 3, 1000, 50));
  EXPECT_DONE(cuMemFree(address));
}

TEST_F(MemoryTest, StreamOrderedMemoryComesAndGoes) {
  CUstream stream = make_stream();
  CUdeviceptr address = 0;
  ASSERT_DONE(cuMemAllocAsync(&address, std::size_t{8} << 20, stream));
  EXPECT_DONE(cuMemsetD8Async(address, 5, std::size_t{8} << 20, stream));
  unsigned value = 0;
  EXPECT_DONE(cuMemcpyDtoHAsync(&value, address, 4, stream));
  EXPECT_DONE(cuMemFreeAsync(address, stream));
  EXPECT_DONE(cuStreamSynchronize(stream));
  EXPECT_EQ(0x05050505u, value);
  EXPECT_DONE(cuStreamDestroy(stream));
}

TEST_F(MemoryTest, ACaptureFreesOnlyWhatGraphsAllocate) {
  CUdeviceptr plain = 0, inside = 0;
  ASSERT_DONE(cuMemAlloc(&plain, 4096));
  CUstream stream = make_stream();
  CUgraph graph = nullptr;
  ASSERT_DONE(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
  ASSERT_DONE(cuMemAllocAsync(&inside, 4096, stream));
  EXPECT_DONE(cuMemFreeAsync(inside, stream));
  EXPECT_RESULT(CUDA_ERROR_INVALID_VALUE, cuMemFreeAsync(plain, stream));
  cuStreamEndCapture(stream, &graph);
  if (graph != nullptr) {
    EXPECT_DONE(cuGraphDestroy(graph));
  }
  EXPECT_DONE(cuMemFreeAsync(plain, stream));
  EXPECT_DONE(cuStreamSynchronize(stream));
  EXPECT_DONE(cuStreamDestroy(stream));
}

TEST_F(MemoryTest, ManagedMemoryIsOneAddressForBoth) {
  CUdeviceptr address = 0;
  ASSERT_DONE(cuMemAllocManaged(&address, 4096, CU_MEM_ATTACH_GLOBAL));
  EXPECT_EQ(1u, attribute<unsigned>(CU_POINTER_ATTRIBUTE_IS_MANAGED, address));
  auto* host = reinterpret_cast<unsigned*>(address);
  *host = 11;
  ASSERT_DONE(launch(kernel("kvshim_test_copy_plus_one"), nullptr, address + 64, address));
  ASSERT_DONE(cuCtxSynchronize());
  EXPECT_EQ(12u, host[16]);
  EXPECT_DONE(cuMemFree(address));
}

}  // namespace
}  // namespace kvshim::simulator
