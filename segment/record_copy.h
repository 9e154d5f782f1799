// A record read through the file descriptor instead of a mapping: a file that
// is cut short under the reader is an error then, never a SIGBUS.
#pragma once

#include <cstddef>
#include <memory>

#include "segment/layout.h"

namespace kvshim::segment {

/// Three copies, one read after the other: a cell that neither the first nor the last
/// tells another sequence of was whole in the second. (The kernel's string copy may load
/// a cell's words before its sequence, so one copy says nothing of itself.)
class RecordCopy {
 public:
  /// False: the file is too short (or can't be read).
  bool read(int file, std::size_t index) noexcept {
    return read_first(file, index) && read_second(file, index);
  }
  /// The two halves of read(): what is taken, and what says whether it was whole.
  bool read_first(int file, std::size_t index) noexcept;
  bool read_second(int file, std::size_t index) noexcept;

  std::uint64_t claim() const noexcept;  // 0: free, or changed while it was read
  std::uint64_t answers() const noexcept { return first_.record.answers.load(); }
  std::uint64_t answered_bytes() const noexcept { return first_.record.answered_bytes.load(); }
  std::uint64_t quota() const noexcept { return first_.record.quota.load(); }
  std::uint64_t held() const noexcept { return first_.record.held.load(); }
  bool need(Need* value) const noexcept { return take(&Record::need, value); }
  bool settings(Settings* value) const noexcept { return take(&Record::settings, value); }
  bool figures(Figures* value) const noexcept { return take(&Record::figures, value); }
  bool identity(Identity* value) const noexcept { return take(&Record::identity, value); }
  bool control(std::size_t index, Control* value, std::uint64_t* generation) const noexcept;

 private:
  template <class T>
  bool take(Seqlock<T> Record::*cell, T* value) const noexcept {
    const std::uint64_t sequence = (first_.record.*cell).sequence();
    return (taken_.record.*cell).try_read(value) && (taken_.record.*cell).sequence() == sequence &&
           (second_.record.*cell).sequence() == sequence;
  }
  RecordPage first_{}, taken_{}, second_{};
};

/// The groups' cells, read in the same way. False: too short.
bool read_groups(int file, std::array<Group, kGroups>* groups) noexcept;

}  // namespace kvshim::segment
