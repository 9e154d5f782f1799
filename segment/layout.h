// The shared segment: one file per user and GPU, mapped by every process of
// that user which has pools on that GPU, and by the tools.
//
// WHO WRITES WHAT
//   header        the process that makes the file, under the file's maker lock,
//                 before anybody else has mapped it; constant afterwards.
//   record[i]     the process that holds the kernel lock of record i (an open
//                 file description lock, F_OFD_SETLK): claim, identity, figures,
//                 settings, need, quota, held. Whoever gets the lock of a record whose claim
//                 is not 0 has found a dead process's and clears it.
//   record[i].control, group[j]
//                 anybody, holding the kernel lock of that cell for the moment of
//                 the write; the record's claim is checked under it, so that
//                 nobody steers a successor.
//   record[i].answers, answered_bytes, bell
//                 anybody, by one atomic addition.
// No lock lies in the shared memory; the kernel drops its locks when a process
// dies, however it dies.
//
// ORDER
//   claiming:  lock record -> claim = 0 -> need, figures, settings, answers
//              cleared -> identity -> control lock, control, unlock -> claim = new
//              (release). Readers take claim (acquire), then the cells, then claim
//              again: different, and what they read belonged to nobody.
//   publishing, posting a need: one seqlock write each (cells.h).
//   asking:    need written, then the others' bells rung (bell += 1, FUTEX_WAKE).
//   answering: memory freed, then answered_bytes += n, answers += 1, bell of the
//              needy rung. Answers are hints; the driver decides.
//   dividing:  quota lock -> everybody's quota and figures read -> own quota raised by no
//              more than the groups' limits leave -> unlock. Lowering needs no lock: memory
//              is given back first, then the quota goes down.
//   leaving:   claim = 0, record lock dropped.
//
// KILLED ANYWHERE
//   while claiming: claim is 0, the lock is gone: a free record.
//   while publishing: the sequence is odd and the lock is gone: a dead record,
//              whose readers report that section as missing.
//   while steering: the generation wasn't stored, the old control is in force.
//   while making the file: the magic is missing: set aside by the next one.
//   while dividing: the lock is gone, the quota is the old one or one that fits.
//   between lock and claim of somebody else's dead record: as while claiming.
//
// READERS may assume nothing but the file's size (fstat before mapping): header
// values are compared with the constants below, never used as lengths; texts
// are cut at their array's end. Everything in it may be a lie of another
// process of the same user; no lie leads out of the mapping.
//
// The file is allocated as a whole when it is made, so that a full /dev/shm is
// an error then and not a SIGBUS later. Nobody of ours ever shrinks it. If
// somebody else does, members see it before they touch it (Owner::safe), and the
// next tick (at most 100 ms) puts other memory in its place.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "segment/cells.h"
#include "segment/contents.h"

namespace kvshim::segment {

inline constexpr std::uint64_t kMagic = 0x4745534d4853564b;  // "KVSHMSEG" in memory
inline constexpr std::uint32_t kLayoutVersion = 4;
inline constexpr std::size_t kRecords = 64;
inline constexpr std::size_t kGroups = 16;

/// Locked bytes, beyond the file's end and the same in every version of the
/// layout, so that versions recognise each other's living processes.
inline constexpr std::int64_t kLockBase = std::int64_t{1} << 40;
inline constexpr std::int64_t record_lock(std::size_t i) {
  return kLockBase + static_cast<std::int64_t>(i);
}
inline constexpr std::int64_t kLockedRecords = 4096;  // bytes set apart for record locks
inline constexpr std::int64_t control_lock(std::size_t i) { return record_lock(i) + 4096; }
inline constexpr std::int64_t group_lock(std::size_t j) { return record_lock(j) + 8192; }
inline constexpr std::int64_t kMakerLock = kLockBase + 12288;
inline constexpr std::int64_t kQuotaLock = kMakerLock + 1;

/// Places for checksums: a control copied to another cell is not valid there.
inline constexpr std::uint64_t record_place(std::size_t i, std::uint64_t claim) {
  return (claim << 8) + i;
}
inline constexpr std::uint64_t group_place(std::size_t j) { return 0x8000 + j; }

struct HeaderContents {
  std::uint32_t layout_version = kLayoutVersion;
  std::uint32_t records = kRecords;
  std::uint64_t total_bytes = 0;
  std::uint32_t record_bytes = 0;
  std::uint32_t groups = kGroups;
  std::uint64_t made_ns = 0;
  Text<48> uuid;
};
static_assert(Shareable<HeaderContents>);

struct alignas(4096) Header {
  Word magic;     // stored last
  Word checksum;  // over the contents
  std::array<Word, sizeof(HeaderContents) / 8> contents;
};

struct alignas(64) Record {
  /// 0: free. Else a number that no other claim of this file has had.
  Word claim;
  alignas(64) HalfWord bell;  // futex: its owner waits for it to change
  alignas(64) Word answers;   // since the need in force was posted
  Word answered_bytes;
  /// Bytes that its process may hold by the limits of its groups; 0: nothing divided yet.
  /// Raised under the quota lock only.
  alignas(64) Word quota;
  Word quota_wanted;  // bytes it would like to hold; 0: no wish
  /// GPU memory of its pools and their caches, bytes: raised before some is made, lowered after it
  /// was released.
  Word held;
  alignas(64) Seqlock<Need> need;
  alignas(64) Committed<Control> control;
  alignas(64) Seqlock<Settings> settings;
  alignas(64) Seqlock<Figures> figures;
  alignas(64) Seqlock<Identity> identity;
};
inline constexpr std::size_t kRecordBytes = 4096;
static_assert(sizeof(Record) <= kRecordBytes);

union RecordPage {
  Record record;
  std::array<std::byte, kRecordBytes> page;
};

struct alignas(64) Group {
  Committed<Control> control;
};

struct Segment {
  Header header;
  alignas(4096) std::array<Group, kGroups> groups;
  alignas(4096) std::array<RecordPage, kRecords> records;
};

/// `GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`, as NVML prints it.
std::string uuid_text(const std::array<unsigned char, 16>& bytes);
bool is_uuid_text(std::string_view text);
/// kvshim-<uid>-<uuid>
std::string file_name(std::uint32_t uid, std::string_view uuid);
/// `folder` as it is, or /dev/shm when empty.
std::string folder_or_default(const std::string& folder);

}  // namespace kvshim::segment
