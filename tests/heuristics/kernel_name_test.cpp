#include "heuristics/kernel_name.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace kvshim::heuristics {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(KernelName, SplitsAtTheRightCommas) {
  const KernelName name = parse_kernel_name(
      "_ZN2at6native29vectorized_elementwise_kernelILi4ENS0_"
      "11FillFunctorIaEESt5arrayIPcLm1EEEEviT0_"
      "T1_");
  EXPECT_EQ(name.name,
            "at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<signed char>, "
            "std::array<char*, 1ul> >");
  EXPECT_THAT(name.template_arguments,
              ElementsAre("4", "at::native::FillFunctor<signed char>", "std::array<char*, 1ul>"));
  ASSERT_TRUE(name.parameters);
  EXPECT_THAT(*name.parameters,
              ElementsAre("int", "at::native::FillFunctor<signed char>", "std::array<char*, 1ul>"));
}

TEST(KernelName, ClosuresAndAnonymousNamespacesDoNotConfuseIt) {
  const KernelName name = parse_kernel_name(
      "_ZN2at6native18elementwise_kernelILi128ELi2EZNS0_22gpu_kernel_impl_nocastINS0_"
      "13BinaryFunctorIfffNS0_15binary_internal10DivFunctorIfEEEEEEvR18TensorIteratorBaseRKT_EUliE_"
      "EEviT1_");
  ASSERT_TRUE(name.parameters);
  ASSERT_EQ(name.parameters->size(), 2u);
  EXPECT_EQ(name.parameters->front(), "int");
  EXPECT_TRUE(name.parameters->back().ends_with("{lambda(int)#1}"));
  EXPECT_TRUE(name.name.starts_with("at::native::elementwise_kernel<128, 2, "));

  const KernelName cat = parse_kernel_name(
      "_ZN2at6native40_GLOBAL__N__9a47df96_8_names_cu_1acfebd335CatArrayBatchedCopy_alignedK_"
      "contigINS0_10OpaqueTypeILi4EEEjLi2ELi128ELi1ELi16EEEvPT_NS1_"
      "25CatArrInputTensorMetadataIS5_T0_XT2_EXT3_EEENS1_16TensorSizeStrideIS8_Lj4EEEiS8_");
  ASSERT_TRUE(cat.parameters);
  EXPECT_THAT(
      *cat.parameters,
      ElementsAre("at::native::OpaqueType<4>*",
                  "at::native::(anonymous namespace)::CatArrInputTensorMetadata<at::native::"
                  "OpaqueType<4>, unsigned int, 128, 1>",
                  "at::native::(anonymous namespace)::TensorSizeStride<unsigned int, 4u>", "int",
                  "unsigned int"));
  EXPECT_TRUE(cat.name.starts_with("at::native::(anonymous namespace)::CatArrayBatchedCopy"));
}

TEST(KernelName, UnmangledNamesCarryNoTypes) {
  const KernelName name = parse_kernel_name("reshape_and_cache_kernel_flash");
  EXPECT_EQ(name.name, "reshape_and_cache_kernel_flash");
  EXPECT_FALSE(name.parameters);
  EXPECT_THAT(name.template_arguments, IsEmpty());
  EXPECT_FALSE(parse_kernel_name("_Znonsense").parameters);
  EXPECT_FALSE(parse_kernel_name("").parameters);
}

TEST(KernelName, WithoutParametersTheListIsEmptyAndNotAbsent) {
  const KernelName name = parse_kernel_name("_Z5emptyv");
  ASSERT_TRUE(name.parameters);
  EXPECT_THAT(*name.parameters, IsEmpty());
}

TEST(KernelName, TellsConstOfThePointerFromConstOfThePointee) {
  EXPECT_TRUE(points_to_const("float const*"));
  EXPECT_TRUE(points_to_const("float const* const"));
  EXPECT_TRUE(points_to_const("char const* const*"));
  EXPECT_FALSE(points_to_const("float* const"));
  EXPECT_FALSE(points_to_const("char const**"));
  EXPECT_FALSE(points_to_const("a::B<float const*>"));
  EXPECT_FALSE(points_to_const("a::B<float const>*"));
}

TEST(KernelName, TemplatePathsLeadInside) {
  const std::vector<std::string> arguments = {"4", "F<A<int, long>, x>"};
  EXPECT_EQ(template_argument_at(arguments, "1.0.1"), "long");
  EXPECT_EQ(template_argument_at(arguments, "1.1"), "x");
  EXPECT_EQ(template_argument_at(arguments, "2"), "");
  EXPECT_EQ(template_argument_at(arguments, "1.0.1.0"), "");
  EXPECT_EQ(template_argument_at(arguments, "x"), "");
  EXPECT_EQ(find_template_instance("a::Bar<y::Foo<a, b<c> >, 1>", "Foo"), "Foo<a, b<c> >");
  EXPECT_EQ(find_template_instance("a::BarFoo<a>", "Foo"), "");
}

TEST(KernelName, HostileTextNeitherCrashesNorInventsParameters) {
  for (const char* text : {"_ZN", "_Z1fIXgtLi4ELi3EEEvv", "_ZNK1AcvbEv", "_ZN1AltERKS_",
                           "_ZN1AptEv", "_Z1fPFviE", "_Z1fM1AFvvE"}) {
    const KernelName name = parse_kernel_name(text);
    if (name.parameters) {
      EXPECT_LE(name.parameters->size(), 1u) << text;
    }
  }
}

}  // namespace
}  // namespace kvshim::heuristics
