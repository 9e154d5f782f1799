#include "segment/record_copy.h"

#include <unistd.h>

#include <atomic>
#include <cstddef>

namespace kvshim::segment {
namespace {

// The kernel copies as plain bytes; nobody else sees the destination.
template <class T>
bool read_at(int file, std::size_t offset, T* into) noexcept {
  return pread(file, static_cast<void*>(into), sizeof(T), static_cast<off_t>(offset)) ==
         static_cast<ssize_t>(sizeof(T));
}

}  // namespace

bool RecordCopy::read_first(int file, std::size_t index) noexcept {
  const std::size_t offset = offsetof(Segment, records) + index * sizeof(RecordPage);
  if (!read_at(file, offset, &first_)) return false;
  std::atomic_thread_fence(std::memory_order_acquire);
  return read_at(file, offset, &taken_);
}

bool RecordCopy::read_second(int file, std::size_t index) noexcept {
  std::atomic_thread_fence(std::memory_order_acquire);
  return read_at(file, offsetof(Segment, records) + index * sizeof(RecordPage), &second_);
}

std::uint64_t RecordCopy::claim() const noexcept {
  const std::uint64_t claim = first_.record.claim.load();
  return claim == second_.record.claim.load() ? claim : 0;
}

bool RecordCopy::control(std::size_t index, Control* value,
                         std::uint64_t* generation) const noexcept {
  // A commit that overtook the first copy has left the second one whole.
  const std::uint64_t place = record_place(index, claim());
  return read_whole(first_.record.control, place, value, generation) ||
         read_whole(second_.record.control, place, value, generation);
}

bool read_groups(int file, std::array<Group, kGroups>* groups) noexcept {
  return read_at(file, offsetof(Segment, groups), groups);
}

}  // namespace kvshim::segment
