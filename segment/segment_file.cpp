#include "segment/segment_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "segment/file_lock.h"

namespace kvshim::segment {
namespace {

constexpr std::size_t kTotal = sizeof(Segment);
constexpr std::chrono::milliseconds kMakerPatience{1000};

std::string error_text(int error) { return std::strerror(error); }

FileIdentity identity_of(const struct stat& info) { return {info.st_dev, info.st_ino}; }

HeaderContents contents_for(const std::string& uuid) {
  HeaderContents contents;
  contents.total_bytes = kTotal;
  contents.record_bytes = kRecordBytes;
  contents.uuid = uuid;
  return contents;
}

// O_NONBLOCK: a FIFO of that name must not hold us up.
int open_existing(const std::string& path, int access) {
  return open(path.c_str(), access | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
}

// A process may have closed its standard streams; what it opens next is meant
// to become them, so we must not sit there.
int above_standard_streams(int file) {
  if (file < 0 || file > 2) return file;
  const int higher = fcntl(file, F_DUPFD_CLOEXEC, 3);
  const int error = errno;
  close(file);
  errno = error;
  return higher;
}

void forget(std::atomic<int>* descriptor) {
  const int file = descriptor->exchange(-1);
  if (file >= 0) close(file);
}

std::string whole_file_allocated(int file) {
  // Growing past this limit is answered with SIGXFSZ, which kills.
  rlimit most{};
  if (getrlimit(RLIMIT_FSIZE, &most) == 0 && most.rlim_cur != RLIM_INFINITY &&
      most.rlim_cur < kTotal) {
    return "the limit on file sizes (ulimit -f) is below " + std::to_string(kTotal) + " bytes";
  }
  int error = EINTR;
  for (int tries = 0; tries < 100 && error == EINTR; ++tries) {
    error = posix_fallocate(file, 0, static_cast<off_t>(kTotal));
  }
  return error == 0 ? std::string() : error_text(error);
}

void write_header(Segment& segment, const HeaderContents& contents) {
  const auto words = std::bit_cast<PlainWords<HeaderContents>>(contents);
  for (std::size_t i = 0; i < words.size(); ++i) {
    segment.header.contents[i].store(words[i], std::memory_order_relaxed);
  }
  segment.header.checksum.store(checksum(words.data(), words.size(), kMagic),
                                std::memory_order_relaxed);
  segment.header.magic.store(kMagic, std::memory_order_release);
}

// REQUIRES: the maker lock; the file is empty.
bool make(const std::string& path, int file, const std::string& uuid, std::string* why) {
  std::string problem = whole_file_allocated(file);
  if (problem.empty()) {
    Segment* segment = map_segment(path, state_of(file).identity, nullptr, &problem);
    if (segment != nullptr) {
      HeaderContents contents = contents_for(uuid);
      contents.made_ns = monotonic_ns();
      write_header(*segment, contents);
      munmap(segment, kTotal);
      return true;
    }
  }
  unlink(path.c_str());
  *why = path + " can't be made: " + problem;
  return false;
}

enum class Outcome : std::uint8_t { kDone, kAgain, kFailed };

Outcome set_aside(const std::string& path, const std::string& reason,
                  std::vector<std::string>* messages, std::string* why) {
  const std::string aside = path + ".bad";
  if (rename(path.c_str(), aside.c_str()) != 0) {
    *why = path + " is no usable segment (" + reason +
           ") and can't be set aside: " + error_text(errno);
    return Outcome::kFailed;
  }
  messages->push_back("the segment " + path + " was set aside as " + aside + ": " + reason);
  return Outcome::kAgain;
}

// One round: opened or created, locked, checked.
Outcome open_once(const std::string& path, const std::string& uuid, std::atomic<int>* descriptor,
                  std::vector<std::string>* messages, std::string* why) {
  int file = above_standard_streams(open_existing(path, O_RDWR));
  descriptor->store(file);
  if (file < 0 && errno == ENOENT) {
    file = above_standard_streams(
        open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
    descriptor->store(file);
    if (file < 0 && errno == EEXIST) return Outcome::kAgain;
    if (file >= 0) fchmod(file, 0600);  // whatever the umask says
  }
  if (file < 0) {
    const int error = errno;
    *why = path + " can't be opened: " +
           (error == ELOOP ? std::string("it is a symbolic link; remove it") : error_text(error));
    return Outcome::kFailed;
  }
  struct stat info {};
  if (fstat(file, &info) != 0 || !S_ISREG(info.st_mode) || info.st_uid != geteuid()) {
    *why = path +
           " is not a file of this user; remove it, or choose another folder (option "
           "segment_dir)";
    return Outcome::kFailed;
  }
  const HeldLock maker(file, kMakerLock, kMakerPatience);
  if (!maker) {
    *why = path +
           ": another process is in the middle of making it and doesn't go on, or the "
           "file system has no file locks";
    return Outcome::kFailed;
  }
  const FileState state = state_of(file);
  if (!state.linked || !names(path, state.identity)) return Outcome::kAgain;
  if (const std::string reason = not_ours(file, geteuid()); !reason.empty()) {
    return set_aside(path, reason, messages, why);
  }
  if (state.size == 0) {
    return make(path, file, uuid, why) ? Outcome::kDone : Outcome::kFailed;
  }
  std::string reason;
  switch (check_header(file, uuid, &reason)) {
    case HeaderState::kValid:
      return Outcome::kDone;
    case HeaderState::kOtherVersion:
      if (locked_by_other(file, kLockBase, kLockedRecords)) {
        *why = path + " is in use by processes with another version of kvshim (" + reason +
               "); this process can't see them";
        return Outcome::kFailed;
      }
      break;
    case HeaderState::kInvalid:
      break;
  }
  return set_aside(path, reason, messages, why);
}

}  // namespace

FileState state_of(int file) noexcept {
  FileState state;
  struct stat info {};
  if (file < 0 || fstat(file, &info) != 0) return state;
  state.open = true;
  state.identity = identity_of(info);
  state.size = info.st_size;
  state.linked = info.st_nlink > 0;
  return state;
}

bool names(const std::string& path, const FileIdentity& identity) noexcept {
  struct stat info {};
  return lstat(path.c_str(), &info) == 0 && identity_of(info) == identity;
}

std::string not_ours(int file, std::uint32_t uid) {
  struct stat info {};
  if (fstat(file, &info) != 0) return error_text(errno);
  if (!S_ISREG(info.st_mode)) return "it is not a regular file";
  if (info.st_uid != uid) return "it belongs to user " + std::to_string(info.st_uid);
  if ((info.st_mode & 07777) != 0600) return "others may open it (its mode is not 0600)";
  if (info.st_nlink > 1) return "it has other names";
  return {};
}

HeaderState check_header(int file, const std::string& uuid, std::string* why) {
  constexpr std::size_t kWords = 2 + sizeof(HeaderContents) / 8;
  std::array<std::uint64_t, kWords> words{};
  const FileState state = state_of(file);
  if (pread(file, words.data(), sizeof(words), 0) != static_cast<ssize_t>(sizeof(words))) {
    *why = "it is too short (" + std::to_string(state.size) + " bytes)";
    return HeaderState::kInvalid;
  }
  if (words[0] != kMagic) {
    *why = "it doesn't begin as a segment does";
    return HeaderState::kInvalid;
  }
  PlainWords<HeaderContents> plain{};
  std::copy(words.begin() + 2, words.end(), plain.begin());
  const auto contents = std::bit_cast<HeaderContents>(plain);
  if (contents.layout_version != kLayoutVersion) {
    *why = "its layout is version " + std::to_string(contents.layout_version) + ", ours is " +
           std::to_string(kLayoutVersion);
    return HeaderState::kOtherVersion;
  }
  HeaderContents expected = contents_for(uuid);
  expected.made_ns = contents.made_ns;
  if (words[1] != checksum(plain.data(), plain.size(), kMagic) ||
      std::memcmp(&contents, &expected, sizeof(contents)) != 0) {
    *why = "its header is corrupt";
    return HeaderState::kInvalid;
  }
  if (state.size != static_cast<std::int64_t>(kTotal)) {
    *why = "it has " + std::to_string(state.size) + " bytes, not " + std::to_string(kTotal);
    return HeaderState::kInvalid;
  }
  return HeaderState::kValid;
}

HeaderContents read_header(const Segment& segment) noexcept {
  PlainWords<HeaderContents> words;
  for (std::size_t i = 0; i < words.size(); ++i) {
    words[i] = segment.header.contents[i].load(std::memory_order_relaxed);
  }
  return std::bit_cast<HeaderContents>(words);
}

bool header_intact(const Segment& segment, const HeaderContents& expected) noexcept {
  const HeaderContents now = read_header(segment);
  return segment.header.magic.load(std::memory_order_relaxed) == kMagic &&
         std::memcmp(&now, &expected, sizeof(now)) == 0;
}

bool open_segment(const std::string& folder, const std::string& uuid, std::atomic<int>* descriptor,
                  std::vector<std::string>* messages, std::string* why) {
  const std::string path = folder_or_default(folder) + "/" + file_name(geteuid(), uuid);
  for (int round = 0; round < 8; ++round) {
    switch (open_once(path, uuid, descriptor, messages, why)) {
      case Outcome::kDone:
        return true;
      case Outcome::kFailed:
        forget(descriptor);
        return false;
      case Outcome::kAgain:
        forget(descriptor);
        break;
    }
  }
  *why = path + " changes all the time";
  return false;
}

Segment* map_segment(const std::string& path, const FileIdentity& identity, void* at,
                     std::string* why) {
  // Not through the locking descriptor: the mapping would keep its locks alive.
  const int file = open_existing(path, O_RDWR);
  if (file < 0) {
    *why = error_text(errno);
    return nullptr;
  }
  const FileState state = state_of(file);
  if (state.identity != identity || state.size != static_cast<std::int64_t>(kTotal)) {
    *why = "it was replaced meanwhile";
    close(file);
    return nullptr;
  }
  void* mapped = mmap(at, kTotal, PROT_READ | PROT_WRITE,
                      at != nullptr ? MAP_SHARED | MAP_FIXED : MAP_SHARED, file, 0);
  const int error = errno;
  close(file);
  if (mapped == MAP_FAILED) {
    *why = error_text(error);
    return nullptr;
  }
  return static_cast<Segment*>(mapped);
}

void replace_by_zeros(Segment* segment) noexcept {
  mmap(segment, kTotal, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}

}  // namespace kvshim::segment
