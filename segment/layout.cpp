#include "segment/layout.h"

#include <ctime>

namespace kvshim::segment {
namespace {

constexpr std::string_view kPrefix = "GPU-";
constexpr std::size_t kUuidText = 40;

bool is_dash(std::size_t at) { return at == 12 || at == 17 || at == 22 || at == 27; }

}  // namespace

static_assert(sizeof(Header) == 4096);
static_assert(sizeof(RecordPage) == kRecordBytes);
static_assert(offsetof(Segment, groups) == 4096);
static_assert(offsetof(Segment, records) % 4096 == 0);
static_assert(sizeof(Segment) == offsetof(Segment, records) + kRecords * kRecordBytes);
static_assert(kRecords <= static_cast<std::size_t>(kLockedRecords));

std::string uuid_text(const std::array<unsigned char, 16>& bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string out(kPrefix);
  for (const unsigned char byte : bytes) {
    if (is_dash(out.size())) out += '-';
    out += kDigits[byte >> 4];
    out += kDigits[byte & 15];
  }
  return out;
}

bool is_uuid_text(std::string_view text) {
  if (text.size() != kUuidText || text.substr(0, kPrefix.size()) != kPrefix) return false;
  for (std::size_t i = kPrefix.size(); i < text.size(); ++i) {
    const char c = text[i];
    const bool digit = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
    if (is_dash(i) ? c != '-' : !digit) return false;
  }
  return true;
}

std::string file_name(std::uint32_t uid, std::string_view uuid) {
  return "kvshim-" + std::to_string(uid) + "-" + std::string(uuid);
}

std::string folder_or_default(const std::string& folder) {
  return folder.empty() ? "/dev/shm" : folder;
}

std::uint64_t monotonic_ns() noexcept {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000u +
         static_cast<std::uint64_t>(now.tv_nsec);
}

}  // namespace kvshim::segment
