#include "segment/cells.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <thread>

namespace kvshim::segment {
namespace {

struct Values {
  std::array<std::uint64_t, 40> each;
};

Values all(std::uint64_t value) {
  Values values;
  values.each.fill(value);
  return values;
}

bool uniform(const Values& values) {
  for (const std::uint64_t value : values.each) {
    if (value != values.each[0]) return false;
  }
  return true;
}

/// A cell whose words a test may spoil.
template <class Cell>
struct Exposed {
  alignas(64) Cell cell{};
  Word& word(std::size_t i) { return reinterpret_cast<Word*>(&cell)[i]; }
};

TEST(SeqlockTest, GivesBackWhatWasWritten) {
  Seqlock<Values> cell{};
  cell.write(all(7));
  Values read{};
  ASSERT_TRUE(cell.try_read(&read));
  EXPECT_EQ(read.each[39], 7u);
}

TEST(SeqlockTest, AWriterThatDiedInTheMiddleIsNoticedAndRepairedByTheNextWrite) {
  Exposed<Seqlock<Values>> exposed;
  exposed.cell.write(all(1));
  exposed.word(0).fetch_add(1);  // as after the first store of a write
  exposed.word(1).store(2);
  Values read = all(9);
  EXPECT_FALSE(exposed.cell.try_read(&read));
  EXPECT_FALSE(read_whole(exposed.cell, &read));
  EXPECT_EQ(read.each[0], 9u) << "nothing is handed out then";
  exposed.cell.write(all(3));
  ASSERT_TRUE(exposed.cell.try_read(&read));
  EXPECT_EQ(read.each[0], 3u);
}

TEST(SeqlockTest, ReadersUnderAWriterNeverSeeTwoWritesMixed) {
  auto cell = std::make_unique<Seqlock<Values>>();
  cell->write(all(0));
  std::atomic<bool> stop{false};
  std::thread writer([&] {
    for (std::uint64_t i = 1; !stop; ++i) cell->write(all(i));
  });
  std::uint64_t good = 0, last = 0;
  bool mixed = false, back = false;
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(700);
  while (std::chrono::steady_clock::now() < end) {
    Values read{};
    if (!cell->try_read(&read)) continue;
    mixed |= !uniform(read);
    back |= read.each[0] < last;
    last = read.each[0];
    ++good;
  }
  stop = true;
  writer.join();
  EXPECT_FALSE(mixed);
  EXPECT_FALSE(back);
  EXPECT_GT(good, 100u);
}

TEST(CommittedTest, GivesBackWhatWasCommittedAndItsGeneration) {
  Committed<Values> cell{};
  EXPECT_EQ(cell.generation(), 0u);
  cell.commit(all(5), 1);
  cell.commit(all(6), 1);
  Values read{};
  std::uint64_t generation = 0;
  ASSERT_TRUE(read_whole(cell, 1, &read, &generation));
  EXPECT_EQ(read.each[3], 6u);
  EXPECT_EQ(generation, 2u);
}

TEST(CommittedTest, AWriterKilledBeforeItsLastStoreHasChangedNothing) {
  Exposed<Committed<Values>> exposed;
  exposed.cell.commit(all(5), 1);
  exposed.cell.commit(all(6), 1);
  // The next write goes to slot 1; every prefix of it leaves slot 0 in force.
  const std::size_t slot = 1 + (1 + 40);
  exposed.word(slot).store(0);
  for (std::size_t i = 1; i <= 40; ++i) {
    exposed.word(slot + i).store(99);
    Values read{};
    std::uint64_t generation = 0;
    ASSERT_TRUE(read_whole(exposed.cell, 1, &read, &generation));
    ASSERT_EQ(read.each[0], 6u);
    ASSERT_EQ(generation, 2u);
  }
}

TEST(CommittedTest, AStrayWriteIsCorruptAndNotHandedOut) {
  Exposed<Committed<Values>> exposed;
  exposed.cell.commit(all(5), 1);
  Values read = all(9);
  std::uint64_t generation = 0;
  exposed.word(1 + 41 + 20).fetch_xor(1);
  EXPECT_EQ(exposed.cell.try_read(1, &read, &generation), Committed<Values>::Read::kCorrupt);
  EXPECT_EQ(read.each[0], 9u);
  exposed.word(1 + 41 + 20).fetch_xor(1);
  EXPECT_EQ(exposed.cell.try_read(1, &read, &generation), Committed<Values>::Read::kOk);
}

TEST(CommittedTest, AStrayGenerationIsCorruptToo) {
  Exposed<Committed<Values>> exposed;
  exposed.cell.commit(all(5), 1);
  exposed.word(0).store(3);  // the same slot, another generation
  Values read{};
  std::uint64_t generation = 0;
  EXPECT_FALSE(read_whole(exposed.cell, 1, &read, &generation));
  EXPECT_EQ(generation, 3u);
  exposed.cell.commit(all(8), 1);
  ASSERT_TRUE(read_whole(exposed.cell, 1, &read, &generation));
  EXPECT_EQ(read.each[0], 8u);
}

TEST(CommittedTest, AValueIsValidInItsOwnPlaceOnly) {
  Committed<Values> cell{};
  cell.commit(all(5), 1);
  Values read{};
  std::uint64_t generation = 0;
  EXPECT_FALSE(read_whole(cell, 2, &read, &generation));
}

TEST(CommittedTest, NoGenerationReadsAsNeverWritten) {
  Exposed<Committed<Values>> exposed;
  exposed.word(0).store(UINT64_MAX);
  exposed.cell.commit(all(5), 1);
  EXPECT_NE(exposed.cell.generation(), 0u);
  Values read{};
  std::uint64_t generation = 0;
  EXPECT_TRUE(read_whole(exposed.cell, 1, &read, &generation));
}

TEST(CommittedTest, ReadersUnderAWriterNeverSeeTwoCommitsMixed) {
  auto cell = std::make_unique<Committed<Values>>();
  cell->commit(all(0), 1);
  std::atomic<bool> stop{false};
  std::thread writer([&] {
    for (std::uint64_t i = 1; !stop; ++i) cell->commit(all(i), 1);
  });
  std::uint64_t good = 0;
  bool mixed = false, corrupt = false;
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(700);
  while (std::chrono::steady_clock::now() < end) {
    Values read{};
    std::uint64_t generation = 0;
    const auto result = cell->try_read(1, &read, &generation);
    corrupt |= result == Committed<Values>::Read::kCorrupt;
    if (result != Committed<Values>::Read::kOk) continue;
    mixed |= !uniform(read) || read.each[0] + 1 != generation;
    ++good;
  }
  stop = true;
  writer.join();
  EXPECT_FALSE(mixed);
  EXPECT_FALSE(corrupt) << "being overtaken is not being corrupt";
  EXPECT_GT(good, 100u);
}

}  // namespace
}  // namespace kvshim::segment
