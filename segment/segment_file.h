// The segment's file: opened, made, checked, set aside.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "segment/layout.h"

namespace kvshim::segment {

/// Which file a descriptor stands for; a host may have closed ours and got the
/// same number for something else.
struct FileIdentity {
  std::uint64_t device = 0, inode = 0;
  bool operator==(const FileIdentity&) const = default;
};

/// What fstat says about a descriptor that should be a segment's.
struct FileState {
  bool open = false;
  FileIdentity identity;
  std::int64_t size = 0;
  bool linked = false;  // has a name
};
FileState state_of(int file) noexcept;  // async-signal-safe
bool names(const std::string& path, const FileIdentity& identity) noexcept;

/// Why a file can't be a segment of `uid`; empty: owner, mode (0600), kind and
/// links are right.
std::string not_ours(int file, std::uint32_t uid);

/// What the file's first page says (read, not mapped: a short file is no fault).
enum class HeaderState : std::uint8_t { kValid, kOtherVersion, kInvalid };
HeaderState check_header(int file, const std::string& uuid, std::string* why);
/// The same of a mapped one, some nanoseconds.
bool header_intact(const Segment& segment, const HeaderContents& expected) noexcept;
HeaderContents read_header(const Segment& segment) noexcept;

/// A descriptor of the valid segment of `uuid` in `folder`, for locking only.
/// `*descriptor` holds it from the moment on that it is open (a fork in between
/// closes it in the child). Makes the file if need be, sets aside (renames to
/// "<name>.bad") what is ours but no segment. False with `*why`. `messages`:
/// what a user should know. Blocks at most about a second.
bool open_segment(const std::string& folder, const std::string& uuid, std::atomic<int>* descriptor,
                  std::vector<std::string>* messages, std::string* why);
/// Maps the file that `identity` names, at `at` (replacing what is there) unless
/// null. Null with `*why`.
Segment* map_segment(const std::string& path, const FileIdentity& identity, void* at,
                     std::string* why);
/// Zeros in place of the file, at the same addresses: later accesses are
/// harmless whatever becomes of the file.
void replace_by_zeros(Segment* segment) noexcept;

}  // namespace kvshim::segment
