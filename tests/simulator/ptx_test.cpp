#include "tests/simulator/ptx.h"

#include <gtest/gtest.h>

namespace kvshim::simulator {
namespace {

TEST(PtxTest, ReadsNamesOffsetsAndSizesOfParameters) {
  const auto module = read_ptx(R"(
// a comment with .entry wrong(
.version 6.4
.target sm_75
.address_size 64
.visible .entry _Z1kPiS_(
	.param .u64 .ptr .global .align 16 p0,
	.param .u32 p1,
	.param .align 8 .b8 p2[24],
	.param .u8 p3,
	.param .align 64 .b8 p4[128]
)
.maxntid 128, 1, 1
{
	ld.param.u64 %rd1, [p0];
	ret;
}
.entry none()
{ ret; }
)");
  ASSERT_TRUE(module);
  ASSERT_EQ(2u, module->entries.size());
  const PtxEntry& entry = module->entries[0];
  EXPECT_EQ("_Z1kPiS_", entry.name);
  ASSERT_EQ(5u, entry.params.size());
  const std::size_t offsets[] = {0, 8, 16, 40, 64};
  const std::size_t bytes[] = {8, 4, 24, 1, 128};
  for (std::size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(offsets[i], entry.params[i].offset) << i;
    EXPECT_EQ(bytes[i], entry.params[i].bytes) << i;
  }
  EXPECT_EQ(192u, entry.params_bytes);
  EXPECT_TRUE(module->entries[1].params.empty());
}

TEST(PtxTest, ReadsModuleVariables) {
  const auto module = read_ptx(
      ".version 7.0\n.visible .global .align 8 .b8 table[4096];\n"
      ".global .u32 counter = 5;\n");
  ASSERT_TRUE(module);
  ASSERT_EQ(2u, module->variables.size());
  EXPECT_EQ("table", module->variables[0].name);
  EXPECT_EQ(4096u, module->variables[0].bytes);
  EXPECT_EQ(4u, module->variables[1].bytes);
}

TEST(PtxTest, RefusesWhatIsNotPtx) {
  EXPECT_FALSE(read_ptx("hello"));
  EXPECT_FALSE(read_ptx(""));
  EXPECT_FALSE(read_ptx(".version 6.4\n.entry f(.param .u64"));
}

}  // namespace
}  // namespace kvshim::simulator
