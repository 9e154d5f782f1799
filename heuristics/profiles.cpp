#include "heuristics/profiles.h"

#include <memory>
#include <utility>

#include "heuristics/profile_data.h"
#include "text/text_file.h"

namespace kvshim::heuristics {
namespace {

constexpr std::size_t kMaxFileBytes = std::size_t{1} << 20;

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
  text::ReadProblem problem;
  const auto text = text::read_text_file(path, kMaxFileBytes, &problem);
  if (!text) return {path + ": " + problem.words};
  auto profile = parse_profile(*text, path, &errors);
  // In front: what the user says decides before what is built in.
  if (profile) impl_->profiles.insert(impl_->profiles.begin(), std::move(*profile));
  return errors;
}

}  // namespace kvshim::heuristics
