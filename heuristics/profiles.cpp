#include "heuristics/profiles.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <utility>

#include "heuristics/profile_data.h"

namespace kvshim::heuristics {
namespace {

constexpr std::size_t kMaxFileBytes = std::size_t{1} << 20;

std::optional<std::string> read_file(const std::string& path, std::string* error) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "re"),
                                                             &std::fclose);
  if (file == nullptr) {
    *error = path + ": " + std::strerror(errno);
    return std::nullopt;
  }
  std::string text;
  char buffer[4096];
  std::size_t got = 0;
  while ((got = std::fread(buffer, 1, sizeof buffer, file.get())) != 0) {
    text.append(buffer, got);
    if (text.size() > kMaxFileBytes) {
      *error = path + ": larger than 1 MiB";
      return std::nullopt;
    }
  }
  if (std::ferror(file.get()) != 0) {
    *error = path + ": " + std::strerror(errno);
    return std::nullopt;
  }
  return text;
}

}  // namespace

Profiles::Profiles() : impl_(std::make_unique<Impl>()) {}
Profiles::Profiles(Profiles&&) noexcept = default;
Profiles& Profiles::operator=(Profiles&&) noexcept = default;
Profiles::~Profiles() = default;

Profiles Profiles::built_in() {
  Profiles result;
  for (const EmbeddedProfile* embedded = kEmbeddedProfiles; embedded->name != nullptr; ++embedded) {
    std::vector<std::string> errors;  // none: a test parses every built-in profile
    auto profile = parse_profile(embedded->text, embedded->name, &errors);
    if (profile) result.impl_->profiles.push_back(std::move(*profile));
  }
  return result;
}

std::vector<std::string> Profiles::add_file(const std::string& path) {
  std::vector<std::string> errors;
  std::string error;
  const auto text = read_file(path, &error);
  if (!text) return {error};
  auto profile = parse_profile(*text, path, &errors);
  // In front: what the user says decides before what is built in.
  if (profile) impl_->profiles.insert(impl_->profiles.begin(), std::move(*profile));
  return errors;
}

}  // namespace kvshim::heuristics
