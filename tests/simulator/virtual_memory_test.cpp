// Virtual memory as measured on an H100, driver 580 (vmm_probe, semantics_probe).
#include "tests/simulator/gpu_test.h"

namespace kvshim::simulator {
namespace {

class VirtualMemoryTest : public GpuTest {};

TEST_F(VirtualMemoryTest, HonoursTheHintOfAReservation) {
  const CUdeviceptr hint = 0x6000'0200'0000;
  CUdeviceptr got = 0;
  ASSERT_DONE(cuMemAddressReserve(&got, std::size_t{1} << 30, 0, hint, 0));
#if !defined(KVSHIM_SANITIZED)  // the sanitizers' own memory lies there
  EXPECT_EQ(hint, got);
#endif
  EXPECT_DONE(cuMemAddressFree(got, std::size_t{1} << 30));
}

TEST_F(VirtualMemoryTest, RoundsAHintUpToThirtyTwoMebibytes) {
  CUdeviceptr got = 0;
  ASSERT_DONE(cuMemAddressReserve(&got, std::size_t{1} << 30, 0, 0x6000'0420'0000, 0));
#if !defined(KVSHIM_SANITIZED)
  EXPECT_EQ(CUdeviceptr{0x6000'0600'0000}, got);
#endif
  EXPECT_DONE(cuMemAddressFree(got, std::size_t{1} << 30));
}

TEST_F(VirtualMemoryTest, ReservesATebibyteWithoutMemory) {
#if defined(KVSHIM_SANITIZED)
  GTEST_SKIP() << "sanitizers have no room for it";
#endif
  std::size_t before = 0, after = 0, total = 0;
  ASSERT_DONE(cuMemGetInfo(&before, &total));
  CUdeviceptr got = 0;
  ASSERT_DONE(cuMemAddressReserve(&got, std::size_t{1} << 40, 0, 0, 0));
  ASSERT_DONE(cuMemGetInfo(&after, &total));
  EXPECT_LE(before - after, std::size_t{16} << 20);
  EXPECT_DONE(cuMemAddressFree(got, std::size_t{1} << 40));
}

TEST_F(VirtualMemoryTest, SaysGranularityOfTwoMebibytes) {
  for (const auto type :
       {CU_MEM_LOCATION_TYPE_DEVICE, CU_MEM_LOCATION_TYPE_HOST, CU_MEM_LOCATION_TYPE_HOST_NUMA}) {
    const CUmemAllocationProp properties = MappedSpace::properties(type);
    std::size_t granularity = 0;
    EXPECT_DONE(
        cuMemGetAllocationGranularity(&granularity, &properties, CU_MEM_ALLOC_GRANULARITY_MINIMUM));
    EXPECT_EQ(kGranule, granularity);
  }
}

TEST_F(VirtualMemoryTest, RefusesSizesThatAreNotGranules) {
  const CUmemAllocationProp properties = MappedSpace::properties();
  CUmemGenericAllocationHandle handle = 0;
  EXPECT_RESULT(CUDA_ERROR_INVALID_VALUE, cuMemCreate(&handle, 4096, &properties, 0));
  EXPECT_RESULT(CUDA_ERROR_INVALID_VALUE, cuMemCreate(&handle, 0, &properties, 0));
}

TEST_F(VirtualMemoryTest, FreshHandlesAreZeroAlsoAfterDirtyOnes) {
  for (int round = 0; round < 3; ++round) {
    MappedSpace space(4);
    ASSERT_DONE(space.map(0, 4, space.make(4)));
    ASSERT_DONE(space.access(0, 4));
    std::vector<unsigned char> bytes(4 * kGranule);
    ASSERT_DONE(cuMemcpyDtoH(bytes.data(), space.at(0), bytes.size()));
    EXPECT_EQ(bytes, std::vector<unsigned char>(bytes.size())) << "round " << round;
    ASSERT_DONE(cuMemsetD8(space.at(0), 0xee, bytes.size()));
    ASSERT_DONE(cuCtxSynchronize());
  }
}

TEST_F(VirtualMemoryTest, MapsAHandleWholeOnly) {
  MappedSpace space(4);
  const auto handle = space.make(2);
  EXPECT_RESULT(CUDA_ERROR_NOT_SUPPORTED, cuMemMap(space.at(0), kGranule, kGranule, handle, 0));
  EXPECT_RESULT(CUDA_ERROR_NOT_SUPPORTED, cuMemMap(space.at(0), kGranule, 0, handle, 0));
  EXPECT_DONE(space.map(0, 2, handle));
}

TEST_F(VirtualMemoryTest, RefusesToMapOverAMapping) {
  MappedSpace space(4);
  ASSERT_DONE(space.map(0, 2, space.make(2)));
  EXPECT_RESULT(CUDA_ERROR_INVALID_VALUE, space.map(1, 1, space.make(1)));
}

TEST_F(VirtualMemoryTest, RefusesToUnmapAPart) {
  MappedSpace space(4);
  ASSERT_DONE(space.map(0, 2, space.make(2)));
  EXPECT_RESULT(CUDA_ERROR_INVALID_VALUE, space.unmap(1, 1));
  EXPECT_RESULT(CUDA_ERROR_INVALID_VALUE, space.unmap(0, 1));
  EXPECT_DONE(space.unmap(0, 2));
}

TEST_F(VirtualMemoryTest, UnmapsSeveralMappingsAtOnceAndHolesToo) {
  MappedSpace space(8);
  ASSERT_DONE(space.map(0, 1, space.make(1)));
  ASSERT_DONE(space.map(1, 2, space.make(2)));
  EXPECT_DONE(space.unmap(0, 3));
  EXPECT_DONE(space.unmap(6, 1));
  EXPECT_DONE(space.map(0, 1, space.make(1))) << "the place is free again";
}

TEST_F(VirtualMemoryTest, OneHandleCanBeSeenAtManyAddresses) {
  MappedSpace space(8);
  const auto handle = space.make(1);
  for (std::size_t i = 0; i < 8; ++i) ASSERT_DONE(space.map(i, 1, handle));
  ASSERT_DONE(space.access(0, 8));
  ASSERT_DONE(cuMemsetD32(space.at(3), 77, 1));
  for (std::size_t i = 0; i < 8; ++i) EXPECT_EQ(77u, read_word(space.at(i)));
}

TEST_F(VirtualMemoryTest, AccessOverAHoleIsRefused) {
  MappedSpace space(4);
  ASSERT_DONE(space.map(0, 1, space.make(1)));
  EXPECT_RESULT(CUDA_ERROR_INVALID_VALUE, space.access(0, 2));
  EXPECT_DONE(space.access(0, 1));
}

TEST_F(VirtualMemoryTest, FillsAndCopiesOverAHoleAreRefusedAtTheCall) {
  MappedSpace space(8);
  ASSERT_DONE(space.map(0, 1, space.make(1)));
  ASSERT_DONE(space.map(1, 2, space.make(2)));
  ASSERT_DONE(space.access(0, 3));
  const CUdeviceptr other = allocate(kGranule);
  CUstream stream = make_stream();
  std::vector<unsigned char> host(3 * kGranule);
  EXPECT_DONE(cuMemsetD8(space.at(0), 7, 3 * kGranule)) << "spans two mappings";
  EXPECT_RESULT(CUDA_ERROR_INVALID_VALUE, cuMemsetD8(space.at(2), 7, 3 * kGranule));
  EXPECT_RESULT(CUDA_ERROR_INVALID_VALUE, cuMemsetD8Async(space.at(5), 7, kGranule, stream));
  EXPECT_RESULT(CUDA_ERROR_INVALID_VALUE, cuMemcpyDtoH(host.data(), space.at(2), 3 * kGranule));
  EXPECT_RESULT(CUDA_ERROR_INVALID_VALUE,
                cuMemcpyHtoDAsync(space.at(5), host.data(), 4096, stream));
  EXPECT_RESULT(CUDA_ERROR_INVALID_VALUE, cuMemcpyDtoD(other, space.at(5), 4096));
  EXPECT_DONE(cuCtxSynchronize()) << "no sticky error";
  EXPECT_DONE(cuStreamDestroy(stream));
  EXPECT_DONE(cuMemFree(other));
}

TEST_F(VirtualMemoryTest, FillsAndCopiesIntoReadOnlyPagesAreRefusedAtTheCall) {
  MappedSpace space(1);
  ASSERT_DONE(space.map(0, 1, space.make(1)));
  ASSERT_DONE(space.access(0, 1, CU_MEM_ACCESS_FLAGS_PROT_READ));
  const CUdeviceptr other = allocate(4096);
  CUstream stream = make_stream();
  std::vector<unsigned char> host(4096, 5);
  EXPECT_RESULT(CUDA_ERROR_INVALID_VALUE, cuMemsetD8Async(space.at(0), 7, 4096, stream));
  EXPECT_RESULT(CUDA_ERROR_INVALID_VALUE, cuMemsetD32Async(space.at(0), 7, 1024, stream));
  EXPECT_RESULT(CUDA_ERROR_INVALID_VALUE, cuMemsetD2D8Async(space.at(0), 64, 7, 32, 4, stream));
  EXPECT_RESULT(CUDA_ERROR_INVALID_VALUE,
                cuMemcpyHtoDAsync(space.at(0), host.data(), 4096, stream));
  EXPECT_RESULT(CUDA_ERROR_INVALID_VALUE, cuMemcpyDtoDAsync(space.at(0), other, 4096, stream));
  EXPECT_DONE(cuStreamSynchronize(stream)) << "no sticky error";
  EXPECT_DONE(cuMemcpyDtoH(host.data(), space.at(0), 4096)) << "reading is allowed";
  EXPECT_EQ(std::vector<unsigned char>(4096), host);
  EXPECT_DONE(cuStreamDestroy(stream));
  EXPECT_DONE(cuMemFree(other));
}

TEST_F(VirtualMemoryTest, FreeRefusesMappedAddresses) {
  MappedSpace space(1);
  ASSERT_DONE(space.map(0, 1, space.make(1)));
  ASSERT_DONE(space.access(0, 1));
  EXPECT_RESULT(CUDA_ERROR_INVALID_VALUE, cuMemFree(space.at(0)));
}

TEST_F(VirtualMemoryTest, ReadOnlyMappingsCanBeRead) {
  MappedSpace space(1);
  ASSERT_DONE(space.map(0, 1, space.make(1)));
  ASSERT_DONE(space.access(0, 1, CU_MEM_ACCESS_FLAGS_PROT_READ));
  const CUdeviceptr to = allocate(4);
  ASSERT_DONE(launch(kernel("kvshim_test_copy_plus_one"), nullptr, to, space.at(0)));
  EXPECT_EQ(1u, read_word(to));
  EXPECT_DONE(cuMemFree(to));
}

TEST_F(VirtualMemoryTest, HostHandlesTakeNoGpuMemory) {
  MappedSpace space(32);
  std::size_t before = 0, after = 0, total = 0;
  ASSERT_DONE(cuMemGetInfo(&before, &total));
  ASSERT_DONE(space.map(0, 32, space.make(32, CU_MEM_LOCATION_TYPE_HOST)));
  ASSERT_DONE(space.access(0, 32));
  ASSERT_DONE(cuMemGetInfo(&after, &total));
  EXPECT_LT(before - after, std::size_t{16} << 20);
  const CUdeviceptr to = allocate(4);
  ASSERT_DONE(cuMemsetD32(space.at(0), 41, 1));
  ASSERT_DONE(launch(kernel("kvshim_test_copy_plus_one"), nullptr, to, space.at(0)));
  EXPECT_EQ(42u, read_word(to));
  EXPECT_DONE(cuMemFree(to));
}

TEST_F(VirtualMemoryTest, MemoryIsGivenBackWithTheLastHandleOrMapping) {
  std::size_t before = 0, held = 0, after = 0, total = 0;
  MappedSpace space(32);
  ASSERT_DONE(cuMemGetInfo(&before, &total));
  CUmemGenericAllocationHandle handle = 0;
  const CUmemAllocationProp properties = MappedSpace::properties();
  ASSERT_DONE(cuMemCreate(&handle, 32 * kGranule, &properties, 0));
  ASSERT_DONE(space.map(0, 32, handle));
  ASSERT_DONE(cuMemRelease(handle));
  ASSERT_DONE(cuMemGetInfo(&held, &total));
  EXPECT_EQ(32 * kGranule, before - held) << "the mapping holds it";
  ASSERT_DONE(space.unmap(0, 32));
  ASSERT_DONE(cuMemGetInfo(&after, &total));
  EXPECT_EQ(before, after);
}

TEST_F(VirtualMemoryTest, HandlesCanBeRetainedThroughAddresses) {
  MappedSpace space(2);
  const auto handle = space.make(1);
  ASSERT_DONE(space.map(0, 1, handle));
  CUmemGenericAllocationHandle retained = 0;
  EXPECT_DONE(cuMemRetainAllocationHandle(&retained, reinterpret_cast<void*>(space.at(0))));
  EXPECT_EQ(handle, retained);
  EXPECT_DONE(cuMemRelease(retained));
  EXPECT_RESULT(CUDA_ERROR_INVALID_VALUE,
                cuMemRetainAllocationHandle(&retained, reinterpret_cast<void*>(space.at(1))));
}

TEST_F(VirtualMemoryTest, PagesMappedWhileAKernelWaitsAreSeenByIt) {
  MappedSpace space(2);
  CUstream stream = make_stream();
  const CUdeviceptr to = allocate(4);
  {
    BusyStream busy(kernel("kvshim_test_spin"), stream);
    ASSERT_DONE(launch(kernel("kvshim_test_copy_plus_one"), stream, to, space.at(1)));
    ASSERT_DONE(space.map(1, 1, space.make(1)));
    ASSERT_DONE(space.access(1, 1));
    busy.open();
    EXPECT_DONE(cuStreamSynchronize(stream));
  }
  EXPECT_EQ(1u, read_word(to));
  EXPECT_DONE(cuStreamDestroy(stream));
  EXPECT_DONE(cuMemFree(to));
}

}  // namespace
}  // namespace kvshim::simulator
