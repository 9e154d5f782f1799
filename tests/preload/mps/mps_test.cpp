// A process under the whole library on a GPU that is shared through MPS.
#include <cuda.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <sstream>

#include "tests/preload/context_fixture.h"
#include "tests/segment/child.h"
#include "tests/segment/folder.h"

namespace kvshim::preload {
namespace {

using segment::Child;
using segment::eventually;
constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr std::size_t kPool = 64 * kMiB;

class MpsTest : public segment::SegmentTest {
 protected:
  void SetUp() override {
    if (std::getenv("KVSHIM_SIM_MPS") == nullptr) GTEST_SKIP() << "run by ctest, with LD_PRELOAD";
    if (std::getenv("KVSHIM_TESTS_ON_GPU") != nullptr) GTEST_SKIP() << "a GPU without MPS";
    SegmentTest::SetUp();
    setenv("KVSHIM_SEGMENT_DIR", folder_.c_str(), 1);
    setenv("KVSHIM_LOG_FILE", (folder_ + "/log").c_str(), 1);
  }
  static CUdeviceptr allocate() {
    CUdeviceptr address = 0;
    EXPECT_EQ(cuMemAlloc_v2(&address, kPool), CUDA_SUCCESS);
    return address;
  }
  static bool is_pool(CUdeviceptr address) {
    unsigned long long id = 0;
    cuPointerGetAttribute(&id, CU_POINTER_ATTRIBUTE_BUFFER_ID, address);
    return id >= 1ull << 48;
  }
  std::string log() const {
    std::ostringstream text;
    text << std::ifstream(folder_ + "/log").rdbuf();
    return text.str();
  }
  std::size_t times_logged(const std::string& text) const {
    const std::string all = log();
    std::size_t count = 0;
    for (std::size_t at = 0; (at = all.find(text, at)) != std::string::npos; ++at) ++count;
    return count;
  }
};

TEST_F(MpsTest, IsSaidOnce) {
  ASSERT_TRUE(use_cuda());
  EXPECT_TRUE(is_pool(allocate()));
  EXPECT_TRUE(is_pool(allocate()));
  EXPECT_TRUE(eventually([&] { return times_logged("shared through MPS") > 0; }));
  EXPECT_EQ(times_logged("shared through MPS"), 1u) << log();
}

TEST_F(MpsTest, IsNotSaidWithoutIt) {
  unsetenv("KVSHIM_SIM_MPS");
  ASSERT_TRUE(use_cuda());
  EXPECT_TRUE(is_pool(allocate()));
  EXPECT_TRUE(eventually([&] { return log().find("joined the segment") != std::string::npos; }));
  EXPECT_EQ(times_logged("MPS"), 0u) << log();
}

TEST_F(MpsTest, TheOptionLeavesAllocationsAlone) {
  setenv("KVSHIM_UNDER_MPS", "false", 1);
  ASSERT_TRUE(use_cuda());
  EXPECT_FALSE(is_pool(allocate()));
  EXPECT_FALSE(is_pool(allocate()));
  const std::string said = "shared through MPS (option under_mps)";
  EXPECT_TRUE(eventually([&] { return times_logged(said) > 0; }));
  EXPECT_EQ(times_logged(said), 1u) << log();
}

TEST_F(MpsTest, AClientsLimitIsTheProcesssLimit) {
  setenv("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", "0=200M,1=1G", 1);
  ASSERT_TRUE(use_cuda());
  ASSERT_TRUE(is_pool(allocate()));
  std::size_t free = 0, total = 0;
  ASSERT_EQ(cuMemGetInfo_v2(&free, &total), CUDA_SUCCESS);
  EXPECT_EQ(total, 200 * kMiB);
  EXPECT_EQ(free, 200 * kMiB - kPool);
  EXPECT_TRUE(eventually([&] {
    const auto all = segment::read_all(folder_);
    return !all.empty() && !all[0].records.empty() &&
           all[0].records[0].settings.limit == 200 * kMiB;
  }));
}

TEST_F(MpsTest, TheLowerOfTwoLimitsHolds) {
  setenv("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", "0=200M", 1);
  setenv("KVSHIM_LIMIT", "150MiB", 1);
  ASSERT_TRUE(use_cuda());
  ASSERT_TRUE(is_pool(allocate()));
  std::size_t free = 0, total = 0;
  ASSERT_EQ(cuMemGetInfo_v2(&free, &total), CUDA_SUCCESS);
  EXPECT_EQ(total, 150 * kMiB);
}

TEST_F(MpsTest, AClientsLimitCountsOnlyUnderIt) {
  unsetenv("KVSHIM_SIM_MPS");
  setenv("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", "0=200M", 1);
  ASSERT_TRUE(use_cuda());
  ASSERT_TRUE(is_pool(allocate()));
  std::size_t free = 0, total = 0;
  ASSERT_EQ(cuMemGetInfo_v2(&free, &total), CUDA_SUCCESS);
  EXPECT_EQ(total, std::size_t{1} << 30);
}

}  // namespace
}  // namespace kvshim::preload
