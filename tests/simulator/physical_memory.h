// The bytes behind cuMemCreate handles: ranges of one memory file per kind,
// so that one handle can be mapped at many addresses. Fresh memory is zero.
#pragma once

#include <cstdint>
#include <memory>

namespace kvshim::simulator {

/// One piece of simulated physical memory; gives its bytes back when the last
/// handle and the last mapping are gone.
class PhysicalPiece {
 public:
  enum class Place : std::uint8_t { kGpu, kHost };

  /// `bytes` is a multiple of 2 MiB; null when the GPU has not that much left.
  /// `shareable` pieces have a file of their own, which fd() names.
  static std::shared_ptr<PhysicalPiece> make(std::uint64_t bytes, Place place, bool shareable);
  /// A piece made by another process, from its file; null when it isn't one.
  static std::shared_ptr<PhysicalPiece> from_file(int fd);
  ~PhysicalPiece();
  PhysicalPiece(const PhysicalPiece&) = delete;
  PhysicalPiece& operator=(const PhysicalPiece&) = delete;

  int fd() const { return fd_; }
  std::uint64_t offset() const { return offset_; }
  std::uint64_t bytes() const { return bytes_; }
  Place place() const { return place_; }
  bool shareable() const { return own_file_; }

 private:
  PhysicalPiece() = default;
  int fd_ = -1;
  std::uint64_t offset_ = 0, bytes_ = 0;
  Place place_ = Place::kGpu;
  bool own_file_ = false;
  bool charged_ = false;
};

}  // namespace kvshim::simulator
