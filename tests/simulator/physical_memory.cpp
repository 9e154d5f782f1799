#include "tests/simulator/physical_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstddef>
#include <map>
#include <mutex>

#include "tests/simulator/gpu_memory.h"

namespace kvshim::simulator {
namespace {

/// One sparse memory file, cut into pieces first fit.
class MemoryFile {
 public:
  int fd() const { return fd_; }

  std::uint64_t take(std::uint64_t bytes) {
    const std::lock_guard lock(mutex_);
    for (auto it = free_.begin(); it != free_.end(); ++it) {
      if (it->second < bytes) continue;
      const std::uint64_t offset = it->first;
      const std::uint64_t left = it->second - bytes;
      free_.erase(it);
      if (left != 0) free_[offset + bytes] = left;
      return offset;
    }
    const std::uint64_t offset = end_;
    end_ += bytes;
    if (ftruncate(fd_, static_cast<off_t>(end_)) != 0) return UINT64_MAX;
    return offset;
  }

  void give_back(std::uint64_t offset, std::uint64_t bytes) {
    // The hole gives the memory to the system and makes the next owner's zero.
    fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
              static_cast<off_t>(bytes));
    const std::lock_guard lock(mutex_);
    auto next = free_.lower_bound(offset);
    if (next != free_.end() && offset + bytes == next->first) {
      bytes += next->second;
      next = free_.erase(next);
    }
    if (next != free_.begin()) {
      const auto before = std::prev(next);
      if (before->first + before->second == offset) {
        before->second += bytes;
        return;
      }
    }
    free_[offset] = bytes;
  }

 private:
  int fd_ = memfd_create("kvshim-simulated-memory", MFD_CLOEXEC);
  std::mutex mutex_;
  std::uint64_t end_ = 0;
  std::map<std::uint64_t, std::uint64_t> free_;
};

MemoryFile& memory_file(PhysicalPiece::Place place) {
  static MemoryFile* const gpu = new MemoryFile;
  static MemoryFile* const host = new MemoryFile;
  return place == PhysicalPiece::Place::kGpu ? *gpu : *host;
}

}  // namespace

std::shared_ptr<PhysicalPiece> PhysicalPiece::make(std::uint64_t bytes, Place place,
                                                   bool shareable) {
  if (place == Place::kGpu && !GpuMemory::instance().take(bytes)) return nullptr;
  std::shared_ptr<PhysicalPiece> piece(new PhysicalPiece);
  piece->place_ = place;
  piece->charged_ = place == Place::kGpu;
  piece->bytes_ = bytes;
  if (shareable) {
    piece->own_file_ = true;
    piece->fd_ = memfd_create("kvshim-simulated-handle", MFD_CLOEXEC);
    if (piece->fd_ < 0 || ftruncate(piece->fd_, static_cast<off_t>(bytes)) != 0) return nullptr;
    return piece;
  }
  const std::uint64_t offset = memory_file(place).take(bytes);
  if (offset == UINT64_MAX) {
    piece->own_file_ = true;  // nothing to give back to the common file
    return nullptr;
  }
  piece->fd_ = memory_file(place).fd();
  piece->offset_ = offset;
  return piece;
}

std::shared_ptr<PhysicalPiece> PhysicalPiece::from_file(int fd) {
  struct stat facts {};
  if (fstat(fd, &facts) != 0 || facts.st_size <= 0) return nullptr;
  std::shared_ptr<PhysicalPiece> piece(new PhysicalPiece);
  piece->own_file_ = true;
  piece->fd_ = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  piece->bytes_ = static_cast<std::uint64_t>(facts.st_size);
  return piece->fd_ < 0 ? nullptr : piece;
}

PhysicalPiece::~PhysicalPiece() {
  if (own_file_) {
    if (fd_ >= 0) close(fd_);
  } else {
    memory_file(place_).give_back(offset_, bytes_);
  }
  // After the bytes: what is free can be taken by another process at once.
  if (charged_) GpuMemory::instance().give_back(bytes_);
}

}  // namespace kvshim::simulator
