#include "segment/reader.h"

#include <gtest/gtest.h>

#include <fstream>

#include "segment/record_copy.h"
#include "tests/segment/child.h"
#include "tests/segment/folder.h"

namespace kvshim::segment {
namespace {

using ReaderTest = SegmentTest;

Figures uniform(std::uint64_t value) {
  PlainWords<Figures> words;
  words.fill(value);
  return std::bit_cast<Figures>(words);
}

bool is_uniform(const Figures& figures) {
  const auto words = std::bit_cast<PlainWords<Figures>>(figures);
  for (const std::uint64_t word : words) {
    if (word != words[0]) return false;
  }
  return true;
}

TEST_F(ReaderTest, NothingThereIsNoError) {
  std::string error;
  EXPECT_TRUE(read_all(folder_, geteuid(), &error).empty());
  EXPECT_EQ(error, "");
}

TEST_F(ReaderTest, OnlySegmentsOfTheUserAreRead) {
  auto owner = join();
  for (const char* name : {"kvshim-0", "other", "kvshim-12345-GPU-x"}) {
    std::ofstream(folder_ + "/" + name) << "x";
  }
  std::ofstream(path() + ".bad") << "x";
  EXPECT_EQ(read_all(folder_).size(), 1u);
  EXPECT_TRUE(read_all(folder_, geteuid() + 1).empty());
}

TEST_F(ReaderTest, ConcurrentReadersSeeNoTornFigures) {
  Child writer([&] {
    auto owner = join();
    for (std::uint64_t i = 1;; ++i) owner->publish(uniform(i), {});
    return 0;
  });
  ASSERT_TRUE(eventually([&] {
    const auto all = read_all(folder_);
    return all.size() == 1 && all[0].records.size() == 1;
  }));
  std::uint64_t good = 0, last = 0;
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(1500);
  while (std::chrono::steady_clock::now() < end) {
    const GpuSnapshot gpu = snapshot();
    ASSERT_EQ(gpu.records.size(), 1u);
    if (!gpu.records[0].missing.empty()) continue;
    ASSERT_TRUE(is_uniform(gpu.records[0].figures));
    ASSERT_GE(gpu.records[0].figures.pools, last);
    last = gpu.records[0].figures.pools;
    ++good;
  }
  EXPECT_GT(good, 20u);
  EXPECT_GT(last, 1000u);
}

TEST_F(ReaderTest, ACopyThatAWriterOvertookIsNotTakenForWhole) {
  auto owner = join();
  owner->publish(uniform(1), {});
  const int file = open(path().c_str(), O_RDONLY | O_CLOEXEC);
  RecordCopy copy;
  Figures figures;
  Settings settings;
  std::uint64_t generation = 0;
  Control control;
  ASSERT_TRUE(copy.read_first(file, owner->index()));
  owner->post_need(1, NeedKind::kFault);
  ASSERT_TRUE(copy.read_second(file, owner->index()));
  Need need;
  EXPECT_FALSE(copy.need(&need)) << "who knows what of it the first copy has";
  EXPECT_TRUE(copy.figures(&figures)) << "not written meanwhile";
  EXPECT_TRUE(copy.settings(&settings));
  EXPECT_TRUE(copy.control(owner->index(), &control, &generation));

  ASSERT_TRUE(copy.read_first(file, owner->index()));
  const std::size_t index = owner->index();
  owner.reset();
  owner = join();  // a successor in the same record
  ASSERT_EQ(owner->index(), index);
  ASSERT_TRUE(copy.read_second(file, index));
  EXPECT_EQ(copy.claim(), 0u) << "neither the one's nor the other's";
  close(file);
}

TEST_F(ReaderTest, ReadingAllIsQuick) {
  std::vector<std::unique_ptr<Owner>> owners;
  for (std::size_t i = 0; i < kRecords; ++i) owners.push_back(join());
  auto best = std::chrono::nanoseconds::max();
  for (int i = 0; i < 10; ++i) {
    const auto start = std::chrono::steady_clock::now();
    EXPECT_EQ(snapshot().records.size(), kRecords);
    best = std::min<std::chrono::nanoseconds>(best, std::chrono::steady_clock::now() - start);
  }
  EXPECT_LT(best, std::chrono::milliseconds(20));
}

}  // namespace
}  // namespace kvshim::segment
