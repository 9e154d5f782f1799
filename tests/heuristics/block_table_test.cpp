// Block tables of readers: what a profile says of them, and what a launch makes of it.
#include <gmock/gmock.h>

#include "heuristics/kernel_catalog.h"
#include "heuristics/profile_data.h"
#include "tests/heuristics/launch_values.h"

namespace kvshim::heuristics {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr std::uint64_t kKeys = 0x600000200000;
constexpr std::uint64_t kValues = 0x6000005e8000;
constexpr std::uint64_t kTable = 0x7fec6fa00000;
constexpr std::uint64_t kLengths = 0x7fec6fa00600;

// vLLM 0.22.1 on an H100, decode steps: grouped heads packed (argument 16), in blocks of one
// (argument 20).
std::string flash3(const std::string& packed = "1", const std::string& head_block = "1",
                   const std::string& element = "NS_10bfloat16_tE") {
  return "_ZN7cutlass13device_kernelIN5flash20enable_sm90_or_laterINS1_16FlashAttnFwdSm90INS1_25Col"
         "lectiveMainloopFwdSm90ILi2EN4cute5tupleIJNS5_1CILi1EEES8_S8_EEENS6_IJNS7_ILi64EEENS7_ILi1"
         "92EEESA_EEELi64E" +
         element + "fNS_4arch4Sm90ELb0ELb0ELb0ELb1ELb1ELb0ELb0ELb1ELb1ELb" + packed +
         "ELb0ELb0ESD_Li" + head_block +
         "EEENS1_21CollectiveEpilogueFwdINS6_IJSA_SA_SB_EEES9_SD_SF_Li128ELb1ELb1ELb0ELb0ELi1EEENS1"
         "_36VarlenDynamicPersistentTileSchedulerILi64ELi192ELi128ELi128ELb0ELb1ELb1ELb0ELb0ELb1EEE"
         "E"
         "EEEEEvNT_6ParamsE";
}

constexpr std::uint64_t pair(std::uint32_t low, std::uint32_t high) {
  return low | std::uint64_t{high} << 32;
}

// The words of such a launch: batch 5, a table of rows of 40 ids, 1000 pages of 16 tokens, 2
// heads of 64 elements for 14 of the queries.
LaunchBuilder flash3_launch() {
  LaunchBuilder launch;
  launch.add_struct(2688, 64);
  launch.put(0, 8, pair(5, 64)).put(0, 16, pair(14, 1));
  launch.put(0, 104, kKeys).put(0, 112, pair(16, 64)).put(0, 120, pair(2, 1000));
  launch.put(0, 128, 128).put(0, 136, 64).put(0, 144, 2048);
  launch.put(0, 152, kValues).put(0, 160, 64);
  launch.put(0, 168, 128).put(0, 176, 64).put(0, 184, 2048);
  launch.put(0, 408, kTable).put(0, 416, pair(5, 36)).put(0, 424, 40);
  launch.put(0, 432, pair(16, 0x80000000)).put(0, 456, pair(7, 0x92492493));
  return launch.put(0, 1936, kLengths);
}

TEST(BlockTable, IsThatOfFlashAttention3) {
  const LaunchBuilder launch = flash3_launch();
  const auto kernel = catalog().classify(flash3(), launch.layout());
  ASSERT_TRUE(kernel->has_table) << kernel->reason;
  EXPECT_EQ(kernel->role, KernelRole::kReader);
  EXPECT_THAT(kernel->reason, HasSubstr("its block table is known"));
  const auto table = kernel->table_call(launch.values());
  ASSERT_TRUE(table);
  EXPECT_EQ(table->ids, kTable);
  EXPECT_EQ(table->lengths, kLengths);
  EXPECT_EQ(table->rows, 5u);
  EXPECT_EQ(table->row_stride, 160u);
  EXPECT_EQ(table->entries, 40u);
  EXPECT_EQ(table->block, 16u);
  ASSERT_EQ(table->parts.size(), 2u);
  EXPECT_EQ(table->parts[0].base, kKeys);
  EXPECT_EQ(table->parts[1].base, kValues);
  for (const TableCall::Part& part : table->parts) {
    EXPECT_EQ(part.block_stride, 4096u);
    EXPECT_EQ(part.length, 4096u);
  }
}

TEST(BlockTable, AValueThatDoesNotFitTellsThatItIsNone) {
  const auto kernel = catalog().classify(flash3(), flash3_launch().layout());
  const auto holds = [&](std::size_t offset, std::uint64_t word) {
    LaunchBuilder launch = flash3_launch();
    launch.put(0, offset, word);
    return kernel->table_call(launch.values()).has_value();
  };
  EXPECT_TRUE(holds(0, 1));
  EXPECT_FALSE(holds(432, pair(32, 0))) << "another page size";
  EXPECT_FALSE(holds(16, pair(15, 1))) << "heads don't divide";
  EXPECT_FALSE(holds(8, pair(5, 128))) << "another dimension";
  EXPECT_FALSE(holds(408, 0)) << "no table";
  EXPECT_FALSE(holds(1936, 0)) << "no lengths";
  EXPECT_FALSE(holds(424, UINT64_MAX)) << "rows that go backwards";
  EXPECT_FALSE(holds(416, pair(UINT32_MAX, 0)));
  EXPECT_FALSE(holds(416, pair(1u << 20, 0))) << "more sequences than anybody has";
}

TEST(BlockTable, BelongsToTheFormsOfTheKernelThatHaveIt) {
  const std::vector<ParamLayout> params = {{0, 2688}};
  EXPECT_FALSE(catalog().classify(flash3("0"), params)->has_table);
  EXPECT_FALSE(catalog().classify(flash3("1", "4"), params)->has_table);
  EXPECT_FALSE(catalog().classify(flash3("1", "1", "NS_9unknown_tE"), params)->has_table)
      << "elements of an unknown size";
  const auto small = catalog().classify(flash3(), std::vector<ParamLayout>{{0, 1936}});
  EXPECT_FALSE(small->has_table) << "fields beyond the parameter";
  EXPECT_EQ(small->role, KernelRole::kReader);
}

// --- the form --------------------------------------------------------------------------------

std::string profile(const std::string& role, const std::string& table) {
  return "name = \"x\"\n[[kernel]]\nname = \"k\"\nmatch = 'k'\nrole = \"" + role +
         "\"\n[[kernel.table]]\n" + table;
}

const std::string kFields =
    "fields = [\"ids: ptr at 0+0\", \"keys: ptr at 1+0\", \"rows: i32 at 2+4\"]\n";
const std::string kRest =
    "ids = \"ids\"\nrow_stride = 64\nrows = \"rows\"\nentries = 16\nblock = 1\n";
const std::string kPart = "[[kernel.table.part]]\nbase = \"keys\"\nblock_stride = 64\nlength = 8\n";

std::vector<std::string> errors_in(const std::string& text) {
  std::vector<std::string> errors;
  EXPECT_FALSE(parse_profile(text, "p.toml", &errors).has_value()) << text;
  return errors;
}

TEST(BlockTable, NeedsNoLengthsAndMayLieInSeveralParameters) {
  std::vector<std::string> errors;
  auto parsed = parse_profile(profile("reader", kFields + kRest + kPart), "p.toml", &errors);
  ASSERT_TRUE(parsed) << errors.front();
  ASSERT_EQ(parsed->kernels.front().tables.size(), 1u);
  const TableForm& form = parsed->kernels.front().tables.front();
  EXPECT_FALSE(form.lengths.has_value());
  EXPECT_EQ(form.fields[2].param, 2u);
  EXPECT_EQ(form.fields[2].offset, 4u);
  EXPECT_EQ(form.fields[2].size, 4u);
  EXPECT_EQ(form.fields[form.parts[0].base].name, "keys");
}

TEST(BlockTable, EachMistakeIsNamedAtItsPlace) {
  EXPECT_THAT(errors_in(profile("layout", kFields + kRest + kPart)),
              Contains(HasSubstr("only a reader can have a block table")));
  EXPECT_THAT(errors_in(profile("reader", kFields + kRest)),
              ElementsAre(HasSubstr("p.toml:6:1: a block table has 1 to 4 parts")));
  for (const char* field : {"ids ptr at 0+0", "ids: f32 at 0+0", "ids: ptr at 0+4", "ids: ptr",
                            "ids: ptr at x+0", "ids: ptr at 0+", ": ptr at 0+0"}) {
    EXPECT_THAT(errors_in(profile("reader", "fields = [\"" + std::string(field) + "\"]\n" + kPart)),
                Contains(HasSubstr("is not \"name: type at parameter+offset\"")))
        << field;
  }
  EXPECT_THAT(errors_in(profile("reader", kFields +
                                              "ids = \"rows\"\nrow_stride = 64\nrows = 1\n"
                                              "entries = 1\nblock = 1\n" +
                                              kPart)),
              ElementsAre(HasSubstr("\"rows\" is not a field that holds an address")));
  EXPECT_THAT(errors_in(profile("reader", kFields + kRest + "lengths = \"none\"\n" + kPart)),
              ElementsAre(HasSubstr("\"none\" is not a field")));
  EXPECT_THAT(errors_in(profile("reader", kFields +
                                              "ids = \"ids\"\nrow_stride = \"element\"\n"
                                              "rows = 1\nentries = 1\nblock = 1\n" +
                                              kPart)),
              ElementsAre(HasSubstr("element")));
  EXPECT_THAT(errors_in(profile("reader", kFields + kRest + "equal = [\"rows = 1\"]\n" + kPart)),
              ElementsAre(HasSubstr("this == that")));
}

}  // namespace
}  // namespace kvshim::heuristics
