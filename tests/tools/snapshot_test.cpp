#include "tools/kvshim/snapshot_source.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "tests/tools/snapshots.h"
#include "tools/kvshim/gpu_index.h"

namespace kvshim::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::kGiB;
using ::testing::SizeIs;

segment::RecordSnapshot record_of(std::int32_t pid) {
  segment::RecordSnapshot record;
  record.live = true;
  record.identity.pid = pid;
  record.identity.name = "python3";
  record.identity.command_line = "python3 /usr/bin/vllm serve model";
  record.identity.gpu_total = 80 * kGiB;
  record.identity.gpu_name = "a GPU";
  record.figures.updated_ns = 9'000'000'000;
  record.figures.pool_bytes = 10 * kGiB;
  record.figures.resident = 4 * kGiB;
  record.figures.parked = 1 * kGiB;
  record.figures.absent = 5 * kGiB;
  record.figures.device_cached = 1 * kGiB;
  record.figures.other_bytes = 2 * kGiB;
  record.figures.gpu_free = 60 * kGiB;
  record.figures.idle_ms = 1500;
  return record;
}

segment::GpuSnapshot gpu_of(std::vector<segment::RecordSnapshot> records) {
  segment::GpuSnapshot gpu;
  gpu.uuid = "GPU-1";
  gpu.path = "/dev/shm/x";
  gpu.taken_ns = 10'000'000'000;
  gpu.records = std::move(records);
  return gpu;
}

TEST(Snapshot, TakesOverTheFiguresOfLivingProcesses) {
  segment::RecordSnapshot dead = record_of(2);
  dead.live = false;
  segment::RecordSnapshot living = record_of(1);
  living.settings.limit = 20 * kGiB;
  living.settings.paused = 1;
  living.settings.priority = 7;
  living.need.bytes = 1;
  const Snapshot snapshot = snapshot_of({gpu_of({living, dead})}, 10);
  ASSERT_THAT(snapshot.gpus, SizeIs(1));
  const GpuFigures& gpu = snapshot.gpus[0];
  EXPECT_EQ(gpu.total, 80 * kGiB);
  EXPECT_EQ(gpu.used, 20 * kGiB);
  ASSERT_THAT(gpu.processes, SizeIs(1));
  const ProcessFigures& process = gpu.processes[0];
  EXPECT_EQ(process.name, "vllm");
  EXPECT_EQ(process.on_gpu(), 7 * kGiB);
  EXPECT_EQ(process.limit, 20 * kGiB);
  EXPECT_EQ(process.priority, 7);
  EXPECT_TRUE(process.paused);
  EXPECT_TRUE(process.in_need);
  EXPECT_DOUBLE_EQ(process.idle_seconds, 1.5);
  EXPECT_DOUBLE_EQ(process.silent_seconds, 1);
  EXPECT_EQ(gpu.used_by_others(), 13 * kGiB);
}

TEST(Snapshot, KnowsWhenAProcessStarted) {
  segment::RecordSnapshot record = record_of(1);
  record.identity.boot = 5;
  record.identity.start_time = 200;
  const BootClock clock{5, 1'796'091'162.25, 100};
  EXPECT_EQ(snapshot_of({gpu_of({record})}, 10, clock).gpus[0].processes[0].started, 1'796'091'164);
  EXPECT_EQ(snapshot_of({gpu_of({record})}, 10).gpus[0].processes[0].started, 0);
}

TEST(Snapshot, ShowsAPausedGroup) {
  segment::GpuSnapshot gpu = gpu_of({record_of(1)});
  segment::Control chat;
  chat.group = "chat";
  chat.paused = 1;
  gpu.groups = {chat};
  const Snapshot snapshot = snapshot_of({gpu}, 10);
  ASSERT_THAT(snapshot.gpus[0].groups, SizeIs(1));
  EXPECT_TRUE(snapshot.gpus[0].groups[0].paused);
}

TEST(Snapshot, IsUnreadableWhereOnlyTheDriverKnowsGpus) {
  segment::GpuSnapshot bad = gpu_of({});
  bad.error = "another version";
  Snapshot snapshot = snapshot_of({bad}, 10);
  add_gpu_memory({{0, "GPU-0", "other", 40 * kGiB, 1 * kGiB}}, &snapshot);
  EXPECT_TRUE(is_unreadable(snapshot));
  EXPECT_FALSE(is_unreadable(snapshot_of({bad, gpu_of({record_of(1)})}, 10)));
  EXPECT_FALSE(is_unreadable({}));
}

TEST(Snapshot, HasNoLimitWhereTheSettingsSayZero) {
  const Snapshot snapshot = snapshot_of({gpu_of({record_of(1)})}, 10);
  EXPECT_EQ(snapshot.gpus[0].processes[0].limit, kNoLimit);
}

TEST(Snapshot, BelievesTheNewestWordAboutTheGpu) {
  segment::RecordSnapshot older = record_of(1);
  segment::RecordSnapshot newer = record_of(2);
  older.figures.gpu_free = 10 * kGiB;
  newer.figures.updated_ns += 5;
  EXPECT_EQ(snapshot_of({gpu_of({older, newer})}, 10).gpus[0].used, 20 * kGiB);
  EXPECT_EQ(snapshot_of({gpu_of({newer, older})}, 10).gpus[0].used, 20 * kGiB);
}

TEST(Snapshot, CountsItsProcessesWhereNobodyKnowsTheUse) {
  segment::RecordSnapshot record = record_of(1);
  record.figures.gpu_free = 0;
  EXPECT_EQ(snapshot_of({gpu_of({record})}, 10).gpus[0].used, 7 * kGiB);
}

TEST(Snapshot, NamesSegmentsThatCannotBeRead) {
  segment::GpuSnapshot bad = gpu_of({});
  bad.error = "another\033 version";
  const Snapshot snapshot = snapshot_of({bad, gpu_of({record_of(1)})}, 10);
  EXPECT_THAT(snapshot.problems, ElementsAre("/dev/shm/x: another? version"));
  EXPECT_THAT(snapshot.gpus, SizeIs(1));
}

TEST(Snapshot, LeavesOutGpusWithoutLivingProcesses) {
  segment::RecordSnapshot dead = record_of(1);
  dead.live = false;
  EXPECT_THAT(snapshot_of({gpu_of({dead})}, 10).gpus, IsEmpty());
}

TEST(Snapshot, TakesTotalsOfTheDriverAndAddsOtherGpus) {
  Snapshot snapshot = snapshot_of({gpu_of({record_of(1)})}, 10);
  add_gpu_memory(
      {{0, "GPU-0", "other", 40 * kGiB, 1 * kGiB}, {1, "GPU-1", "this", 79 * kGiB, 30 * kGiB}},
      &snapshot);
  ASSERT_THAT(snapshot.gpus, SizeIs(2));
  EXPECT_EQ(snapshot.gpus[0].uuid, "GPU-0");
  EXPECT_EQ(snapshot.gpus[1].uuid, "GPU-1");
  EXPECT_EQ(snapshot.gpus[1].total, 79 * kGiB);
  EXPECT_EQ(snapshot.gpus[1].used_by_others(), 23 * kGiB);
}

// NVML may take longer to start than an answer may.
TEST(Snapshot, KnowsAGpusIndexBeforeNvmlAnswers) {
  segment::GpuSnapshot second = gpu_of({record_of(2)});
  second.uuid = "GPU-2";
  Snapshot snapshot = snapshot_of({gpu_of({record_of(1)}), second}, 10);
  add_indices({{"GPU-1", 3}, {"GPU-7", 0}}, &snapshot);
  add_gpu_memory({}, &snapshot);
  ASSERT_THAT(snapshot.gpus, SizeIs(2));
  EXPECT_EQ(snapshot.gpus[0].index, -1) << "the driver doesn't tell of it";
  EXPECT_EQ(snapshot.gpus[1].index, 3);
  add_gpu_memory({{0, "GPU-1", "this", 79 * kGiB, 30 * kGiB}}, &snapshot);
  EXPECT_EQ(snapshot.gpus[1].index, 0) << "NVML's word counts";
}

TEST(GpuIndices, FollowThePlacesOnTheBus) {
  const std::filesystem::path folder =
      std::filesystem::path(::testing::TempDir()) / ("gpus" + std::to_string(::getpid()));
  const auto add = [&](const std::string& place, const std::string& text) {
    std::filesystem::create_directories(folder / place);
    std::ofstream(folder / place / "information") << text;
  };
  add("0000:b1:00.0", "Model: \t\t H100\nGPU UUID: \t GPU-late\nDevice Minor: \t 0\n");
  add("0000:1a:00.0", "Model: \t\t H100\nGPU UUID: \t GPU-early\nDevice Minor: \t 1\n");
  add("0000:3b:00.0", "Model: \t\t H100\n");
  using Indices = std::map<std::string, int>;
  EXPECT_EQ(gpu_indices(folder), (Indices{{"GPU-early", 0}, {"GPU-late", 2}}));
  std::filesystem::remove_all(folder);
  EXPECT_EQ(gpu_indices(folder), Indices{}) << "no driver";
}

TEST(Rates, AreChangesPerSecond) {
  const Snapshot now = testing::two_engines();
  const Snapshot before = testing::two_engines_before();
  const Rates rates = rates_of(now.gpus[0].processes[0], &before.gpus[0].processes[0],
                               now.seconds - before.seconds);
  EXPECT_TRUE(rates.known);
  EXPECT_DOUBLE_EQ(rates.faults, 50);
  EXPECT_DOUBLE_EQ(rates.released, 3.0 * kGiB);
  EXPECT_DOUBLE_EQ(rates.restored, 0.5 * kGiB);
}

TEST(Rates, AreUnknownWithoutTimeAndZeroWhenCountersGoBack) {
  const ProcessFigures now = testing::busy_engine();
  ProcessFigures later = now;
  later.faults += 1;
  EXPECT_FALSE(rates_of(now, nullptr, 1).known);
  EXPECT_FALSE(rates_of(now, &now, 0).known);   // a clock that stands still
  EXPECT_FALSE(rates_of(now, &now, -5).known);  // one that jumped
  EXPECT_DOUBLE_EQ(rates_of(now, &later, 1).faults, 0);
}

}  // namespace
}  // namespace kvshim::cli
