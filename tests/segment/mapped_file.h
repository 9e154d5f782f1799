// The segment's file in the hands of somebody who breaks the rules.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <string>

#include "segment/layout.h"

namespace kvshim::segment {

class MappedFile {
 public:
  explicit MappedFile(const std::string& path)
      : file_(open(path.c_str(), O_RDWR | O_CLOEXEC)),
        memory_(mmap(nullptr, sizeof(Segment), PROT_READ | PROT_WRITE, MAP_SHARED, file_, 0)) {
    EXPECT_NE(memory_, MAP_FAILED);
  }
  ~MappedFile() {
    munmap(memory_, sizeof(Segment));
    close(file_);
  }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  int file() const { return file_; }
  Segment* operator->() const { return static_cast<Segment*>(memory_); }
  Word& word(std::size_t i) const { return static_cast<Word*>(memory_)[i]; }
  void fill(std::size_t first, std::size_t count, std::uint64_t value) const {
    for (std::size_t i = first; i < first + count; ++i) word(i).store(value);
  }

 private:
  int file_;
  void* memory_;
};

}  // namespace kvshim::segment
