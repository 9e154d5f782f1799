// A folder of its own for each test, in memory; and waiting for conditions.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>

#include "segment/layout.h"
#include "segment/owner.h"
#include "segment/reader.h"

namespace kvshim::segment {

inline const std::string kUuid = "GPU-00112233-4455-6677-8899-aabbccddeeff";

class SegmentTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = "/dev/shm/kvshim-segment-test-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override {
    // A dead child's mount is gone a moment after the child.
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(5);
    std::error_code error;
    do {
      std::filesystem::remove_all(folder_, error);
    } while (error && std::chrono::steady_clock::now() < end);
  }

  std::string path() const { return folder_ + "/" + file_name(geteuid(), kUuid); }

  /// Joins; a failure fails the test and gives null.
  std::unique_ptr<Owner> join(const Control& initial = {}, Identity identity = own_identity()) {
    std::string why;
    auto owner = Owner::attach(folder_, kUuid, identity, initial, &said_, &why);
    EXPECT_NE(owner, nullptr) << why;
    return owner;
  }
  /// Why one can't join.
  std::string refusal() {
    std::string why;
    auto owner = Owner::attach(folder_, kUuid, own_identity(), {}, &said_, &why);
    return owner == nullptr ? why : "";
  }
  GpuSnapshot snapshot() const {
    std::vector<GpuSnapshot> all = read_all(folder_);
    EXPECT_EQ(all.size(), 1u);
    return all.empty() ? GpuSnapshot{} : all.front();
  }

  std::string folder_;
  Tick said_;
};

/// Waits until the condition holds; false after the deadline.
template <class Condition>
bool eventually(Condition condition,
                std::chrono::milliseconds within = std::chrono::milliseconds(5000)) {
  const auto deadline = std::chrono::steady_clock::now() + within;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

}  // namespace kvshim::segment
