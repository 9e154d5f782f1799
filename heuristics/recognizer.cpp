#include "heuristics/recognizer.h"

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <optional>
#include <string_view>
#include <utility>

#include "heuristics/process_identity.h"
#include "heuristics/profile_data.h"

namespace kvshim::heuristics {
namespace {

constexpr std::size_t kMaxLeftAlone = 8;  // kinds kept for the warning
// What makes allocations of one kind worth a warning before the process ends.
constexpr std::size_t kSuspiciousCount = 3;
constexpr std::size_t kSuspiciousBytes = std::size_t{4} << 30;

std::string joined(const std::vector<std::string>& arguments) {
  std::string text;
  for (const std::string& argument : arguments) {
    if (!text.empty()) text += ' ';
    text += argument;
  }
  return text;
}

std::string size_text(std::size_t bytes) {
  char text[32];
  if (bytes % (std::size_t{1} << 20) == 0 || bytes < (std::size_t{1} << 20)) {
    std::snprintf(text, sizeof text, "%zu MiB", bytes >> 20);
  } else {
    std::snprintf(text, sizeof text, "%.1f MiB", static_cast<double>(bytes) / (1 << 20));
  }
  return text;
}

// "function /path/file.py:123" without the line: the call-site survives small
// edits, and K and V of one loop are siblings.
std::string without_line(const std::string& frame) {
  const std::size_t colon = frame.rfind(':');
  const bool is_line = colon != std::string::npos && colon + 1 < frame.size() &&
                       frame.find_first_not_of("0123456789", colon + 1) == std::string::npos;
  return is_line ? frame.substr(0, colon) : frame;
}

std::uint64_t hash_of(std::string_view text) {
  std::uint64_t hash = 1469598103934665603U;  // FNV-1a
  for (const char c : text) {
    hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211U;
  }
  return hash;
}

// A pattern that matches the frame in a version whose line numbers differ.
std::string escaped_pattern(const std::string& text) {
  std::string pattern;
  for (const char c : text) {
    if (std::string_view(".[]()*+?{}|^$\\").find(c) != std::string_view::npos) pattern += '\\';
    pattern += c == '\'' ? '.' : c;  // the pattern stands between single quotes
  }
  return pattern;
}

struct CompiledRule {
  Rule rule;
  Pattern call_site;
};

}  // namespace

struct Recognizer::Impl {
  // Fixed after construction.
  const Profiles* profiles = nullptr;
  Settings settings;
  std::vector<std::string> command_lines;  // own, ancestors', wrapped; then the executable
  std::vector<CompiledRule> rules;
  std::vector<bool> known_by_command_line;  // for each profile

  struct LeftAlone {
    std::size_t bytes = 0;
    std::size_t count = 0;
    std::string frame;  // without line number; may be empty
    std::string reason;
    bool unrecognised = false;  // nothing speaks against it
    std::size_t total() const { return bytes * count; }
    bool suspicious() const {
      return unrecognised && (count >= kSuspiciousCount || bytes >= kSuspiciousBytes);
    }
  };
  mutable std::mutex mutex;  // guards what follows; nothing is called under it
  std::size_t last_bytes = 0;
  std::size_t equal_in_a_row = 0;
  std::vector<LeftAlone> left_alone;
  std::string warned_about;  // the candidate of the last warning

  /// What a request looks like to one profile.
  struct View {
    const AllocationRequest& request;
    std::size_t equal_in_a_row;
    bool process;                            // the engine's
    const std::string* innermost = nullptr;  // Python frame that allocates
  };

  bool is_engine(std::size_t profile_index, const std::vector<std::string>& objects) const {
    if (known_by_command_line[profile_index]) return true;
    const Profile& profile = profiles->impl().profiles[profile_index];
    return std::any_of(
        profile.process_object.begin(), profile.process_object.end(), [&](const Pattern& pattern) {
          return std::any_of(objects.begin(), objects.end(),
                             [&](const std::string& path) { return pattern.found_in(path); });
        });
  }

  static bool any_found(const Pattern& pattern, const std::vector<std::string>& frames) {
    return std::any_of(frames.begin(), frames.end(),
                       [&](const std::string& frame) { return pattern.found_in(frame); });
  }

  static const std::string* innermost_frame(const Profile& profile,
                                            const std::vector<std::string>& frames) {
    for (const std::string& frame : frames) {
      if (!profile.has_skip_python || !profile.skip_python.found_in(frame)) return &frame;
    }
    return nullptr;
  }

  static bool speaks(const PoolEvidence& evidence, const View& view) {
    const CallSite& site = view.request.call_site;
    if (evidence.process && !view.process) return false;
    if (view.request.bytes < evidence.min_size) return false;
    if (view.equal_in_a_row < evidence.equal_in_a_row) return false;
    if (evidence.has_innermost_python &&
        (view.innermost == nullptr || !evidence.innermost_python.found_in(*view.innermost))) {
      return false;
    }
    if (evidence.has_any_python && !any_found(evidence.any_python, site.python)) return false;
    if (evidence.has_none_python && any_found(evidence.none_python, site.python)) return false;
    return !evidence.has_any_native || any_found(evidence.any_native, site.native);
  }

  std::optional<std::pair<const Obstacle*, const Profile*>> leaving_obstacle() const {
    for (std::size_t i = 0; i < profiles->impl().profiles.size(); ++i) {
      const Profile& profile = profiles->impl().profiles[i];
      for (const Obstacle& obstacle : profile.obstacles) {
        if (obstacle.leaves_pools && stands(obstacle, i)) return std::pair{&obstacle, &profile};
      }
    }
    return std::nullopt;
  }

  bool stands(const Obstacle& obstacle, std::size_t profile_index) const {
    if (obstacle.process && !known_by_command_line[profile_index]) return false;
    if (obstacle.has_command_line && any_found(obstacle.command_line, command_lines)) return true;
    return std::any_of(obstacle.environment.begin(), obstacle.environment.end(),
                       [&](const std::string& name) {
                         const char* value = std::getenv(name.c_str());
                         return value != nullptr && obstacle.environment_value.found_in(value);
                       });
  }

  /// `*unrecognised` when it is left alone only because nobody knows it: neither a rule of
  /// the user's nor an obstacle stands against it, and no profile says that it is something else.
  Decision by_rules_and_profiles(const AllocationRequest& request, std::size_t in_a_row,
                                 bool* unrecognised) const;
  static Decision taken(const AllocationRequest& request, const std::string& role,
                        const std::string* frame, std::string reason);
};

Recognizer::Recognizer(const Profiles& profiles, ProcessIdentity identity, Settings settings)
    : impl_(std::make_unique<Impl>()) {
  impl_->profiles = &profiles;
  impl_->settings = std::move(settings);
  if (impl_->settings.loaded_objects == nullptr) {
    impl_->settings.loaded_objects = &heuristics::loaded_objects;
  }
  impl_->command_lines.push_back(joined(identity.command_line));
  for (const auto& ancestor : identity.ancestors) impl_->command_lines.push_back(joined(ancestor));
  impl_->command_lines.push_back(joined(identity.wrapped_command));
  for (const Rule& rule : impl_->settings.rules) {
    // The configuration has checked the pattern; a bad one matches nothing.
    impl_->rules.push_back(
        {rule, Pattern::compile(rule.call_site, nullptr).value_or(Pattern::of_nothing())});
  }
  for (const Profile& profile : profiles.impl().profiles) {
    impl_->known_by_command_line.push_back(
        std::any_of(profile.process_command_line.begin(), profile.process_command_line.end(),
                    [&](const Pattern& pattern) {
                      return Impl::any_found(pattern, impl_->command_lines) ||
                             pattern.found_in(identity.executable);
                    }));
  }
}

Recognizer::~Recognizer() = default;

std::size_t Recognizer::threshold() const noexcept { return impl_->settings.min_size; }

Decision Recognizer::Impl::taken(const AllocationRequest& request, const std::string& role,
                                 const std::string* frame, std::string reason) {
  Decision decision;
  decision.pool = true;
  decision.role = role.empty() ? "kv" : role;
  std::string site;
  if (frame != nullptr) {
    site = without_line(*frame);
  } else if (!request.call_site.native.empty()) {
    site = request.call_site.native.front();
  }
  char hash[20];
  std::snprintf(hash, sizeof hash, "%08llx",
                static_cast<unsigned long long>(hash_of(site) & 0xffffffffU));
  decision.group = decision.role + "-" + std::to_string(request.bytes) + "-" +
                   std::to_string(request.device) + "-" + hash;
  decision.reason = std::move(reason);
  if (!site.empty()) decision.reason += " at " + site;
  return decision;
}

Decision Recognizer::Impl::by_rules_and_profiles(const AllocationRequest& request,
                                                 std::size_t in_a_row, bool* unrecognised) const {
  *unrecognised = false;
  Decision left;
  const CallSite& site = request.call_site;
  if (request.bytes < settings.min_size) {
    left.reason = "smaller than min_size (" + size_text(settings.min_size) + ")";
    return left;
  }
  for (const CompiledRule& entry : rules) {
    const Rule& rule = entry.rule;
    if (request.bytes < rule.min_size || request.bytes > rule.max_size) continue;
    if (!entry.call_site.empty() && !any_found(entry.call_site, site.python) &&
        !any_found(entry.call_site, site.native)) {
      continue;
    }
    const std::string name = "the rule at " + (rule.source.empty() ? "?" : rule.source);
    if (rule.action == Rule::Action::kDeny) {
      left.reason = "denied by " + name;
      return left;
    }
    return taken(request, rule.role, site.python.empty() ? nullptr : &site.python.front(),
                 "allowed by " + name);
  }
  if (const auto obstacle = leaving_obstacle()) {
    left.reason = obstacle->second->name + ", " + obstacle->first->name + ": " +
                  obstacle->first->effect + "; " + obstacle->first->remedy;
    return left;
  }
  const std::vector<std::string> objects = settings.loaded_objects();
  std::string against;
  for (std::size_t i = 0; i < profiles->impl().profiles.size(); ++i) {
    const Profile& profile = profiles->impl().profiles[i];
    if (profile.evidence.empty()) continue;
    View view{request, in_a_row, is_engine(i, objects)};
    view.innermost = innermost_frame(profile, site.python);
    for (const PoolEvidence& evidence : profile.evidence) {
      if (!speaks(evidence, view)) continue;
      const std::string what = profile.name + ": " + evidence.name;
      if (evidence.pool) {
        return taken(request, evidence.role, view.innermost, what);
      }
      if (against.empty()) against = "no pool by " + what;
      break;
    }
  }
  *unrecognised = against.empty();
  left.reason = against.empty() ? "no rule and no profile knows the call-site" : against;
  return left;
}

Decision Recognizer::decide(const AllocationRequest& request) {
  std::size_t in_a_row = 0;
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->equal_in_a_row = request.bytes == impl_->last_bytes ? impl_->equal_in_a_row + 1 : 1;
    impl_->last_bytes = request.bytes;
    in_a_row = impl_->equal_in_a_row;
  }
  bool unrecognised = false;
  Decision decision = impl_->by_rules_and_profiles(request, in_a_row, &unrecognised);
  if (decision.pool || request.bytes < impl_->settings.min_size) return decision;

  std::string frame;
  if (!request.call_site.python.empty()) {
    frame = without_line(request.call_site.python.front());
  } else if (!request.call_site.native.empty()) {
    frame = request.call_site.native.front();
  }
  const std::lock_guard lock(impl_->mutex);
  const auto known = std::find_if(impl_->left_alone.begin(), impl_->left_alone.end(),
                                  [&](const Impl::LeftAlone& entry) {
                                    return entry.bytes == request.bytes && entry.frame == frame;
                                  });
  if (known != impl_->left_alone.end()) {
    ++known->count;
  } else {
    // Of many kinds the largest matter.
    impl_->left_alone.push_back({request.bytes, 1, frame, decision.reason, unrecognised});
    std::stable_sort(
        impl_->left_alone.begin(), impl_->left_alone.end(),
        [](const Impl::LeftAlone& a, const Impl::LeftAlone& b) { return a.bytes > b.bytes; });
    if (impl_->left_alone.size() > kMaxLeftAlone) impl_->left_alone.pop_back();
  }
  return decision;
}

std::string Recognizer::left_alone_warning(std::size_t pools, bool at_exit) {
  const std::lock_guard lock(impl_->mutex);
  const Impl::LeftAlone* best = nullptr;
  for (const Impl::LeftAlone& entry : impl_->left_alone) {
    if (!at_exit && !entry.suspicious()) continue;
    // KV pools come one a layer: the most bytes of one kind are the likeliest.
    const bool better = best == nullptr || entry.unrecognised > best->unrecognised ||
                        (entry.unrecognised == best->unrecognised && entry.total() > best->total());
    if (better) best = &entry;
  }
  if (pools != 0 || best == nullptr) return {};
  const std::string candidate = std::to_string(best->bytes) + " " + best->frame;
  if (candidate == impl_->warned_about) return {};
  // Before the end, one warning is enough: more candidates may only be weights.
  if (!at_exit && !impl_->warned_about.empty()) return {};
  impl_->warned_about = candidate;
  std::string text = "no allocation was recognised as a KV pool; large ones left alone:";
  for (const Impl::LeftAlone& entry : impl_->left_alone) {
    text += "\n  " + std::to_string(entry.count) + " x " + size_text(entry.bytes) +
            (entry.frame.empty() ? "" : " at " + entry.frame) + " (" + entry.reason + ")";
  }
  // What was left alone for a reason would break by a rule that takes it all the same.
  if (!best->unrecognised) return text;
  text +=
      "\nif one of them is the KV cache, add to the configuration:\n[[rules]]\n"
      "action = \"allow\"\n";
  if (!best->frame.empty()) text += "call_site = '" + escaped_pattern(best->frame) + "'\n";
  const std::string bytes = std::to_string(best->bytes);
  text += "min_size = " + bytes + "\nmax_size = " + bytes;
  return text;
}

std::vector<std::string> Recognizer::obstacles() const {
  std::vector<std::string> texts;
  for (std::size_t i = 0; i < impl_->profiles->impl().profiles.size(); ++i) {
    const Profile& profile = impl_->profiles->impl().profiles[i];
    for (const Obstacle& obstacle : profile.obstacles) {
      if (impl_->stands(obstacle, i)) {
        texts.push_back(obstacle.name + ": " + obstacle.effect + "; remedy: " + obstacle.remedy);
      }
    }
  }
  return texts;
}

}  // namespace kvshim::heuristics
