#include "preload/mps.h"

#include <algorithm>
#include <atomic>
#include <charconv>
#include <cstdlib>
#include <system_error>

#include "observe/log.h"
#include "preload/real_driver.h"

namespace kvshim::preload {
namespace {

constexpr const char* kLimitVariable = "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT";

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
  return text;
}

// 0: not understood.
std::uint64_t bytes_of(std::string_view text) {
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const std::string_view unit = text.substr(static_cast<std::size_t>(end - text.data()));
  if (error != std::errc() || number > UINT64_MAX >> 30) return 0;
  if (unit == "G" || unit == "GB") return number << 30;
  if (unit == "M" || unit == "MB") return number << 20;
  return 0;
}

bool names_device(std::string_view name, CUdevice device, std::string_view uuid) {
  constexpr std::string_view kPrefix = "GPU-";
  if (name.substr(0, kPrefix.size()) == kPrefix) {
    return name.size() > kPrefix.size() && uuid.substr(0, name.size()) == name;
  }
  return name == std::to_string(device);
}

}  // namespace

bool shared_through_mps(CUdevice device) noexcept {
  int enabled = 0;
  return real().cuDeviceGetAttribute != nullptr &&
         real().cuDeviceGetAttribute(&enabled, CU_DEVICE_ATTRIBUTE_MPS_ENABLED, device) ==
             CUDA_SUCCESS &&
         enabled != 0;
}

std::uint64_t mps_limit(std::string_view text, CUdevice device, std::string_view uuid,
                        std::string* problem) {
  std::uint64_t limit = 0;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t comma = std::min(text.find(',', begin), text.size());
    const std::string_view entry = trimmed(text.substr(begin, comma - begin));
    begin = comma + 1;
    if (entry.empty()) continue;
    const std::size_t equals = entry.find('=');
    const std::uint64_t bytes =
        equals == std::string_view::npos ? 0 : bytes_of(trimmed(entry.substr(equals + 1)));
    if (bytes == 0) {
      *problem = "\"" + std::string(entry) + "\" is no DEVICE=LIMIT such as 0=20G";
      continue;
    }
    if (names_device(trimmed(entry.substr(0, equals)), device, uuid)) limit = bytes;
  }
  return limit;
}

std::uint64_t own_mps_limit(CUdevice device, std::string_view uuid) {
  const char* const text = std::getenv(kLimitVariable);
  if (text == nullptr) return 0;
  std::string problem;
  const std::uint64_t limit = mps_limit(text, device, uuid, &problem);
  static std::atomic<bool> told{false};
  if (!problem.empty() && !told.exchange(true)) {
    log::warning(std::string(kLimitVariable) + ": " + problem + "; it limits no pool");
  }
  return limit;
}

}  // namespace kvshim::preload
