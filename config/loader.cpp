#include "config/loader.h"

#include <cerrno>
#include <utility>

#include "config/environment.h"
#include "config/toml_file.h"
#include "text/text_file.h"

namespace kvshim::config {
namespace {

constexpr std::size_t kLargestFile = 1 << 20;

/// The places of the file, first to last. One named by the user is the only one.
std::vector<std::string> places(const Environment& environment, bool* named_by_user) {
  const std::string* named = find_variable(environment, "KVSHIM_CONFIG");
  *named_by_user = named != nullptr && !named->empty();
  if (*named_by_user) return {*named};
  std::vector<std::string> result;
  const std::string* folder = find_variable(environment, "XDG_CONFIG_HOME");
  const std::string* home = find_variable(environment, "HOME");
  // The XDG specification has relative paths ignored.
  if (folder != nullptr && folder->starts_with('/')) {
    result.push_back(*folder + "/kvshim/kvshim.toml");
  } else if (home != nullptr && home->starts_with('/')) {
    result.push_back(*home + "/.config/kvshim/kvshim.toml");
  }
  result.emplace_back("/etc/kvshim/kvshim.toml");
  return result;
}

void read_everything(const std::string& toml, const std::string& file, const ProcessFacts& facts,
                     std::span<const std::string> sets, Loaded* loaded) {
  read_toml(toml, file, facts, &loaded->options, &loaded->problems);
  read_environment(facts.environment, &loaded->options, &loaded->problems);
  read_sets(sets, &loaded->options, &loaded->problems);
  loaded->disabled_by_environment = disabled_by(facts.environment);
}

void say_out_of_memory(Loaded* loaded) noexcept {
  try {
    loaded->problems.emplace_back("the configuration was not read to its end: out of memory");
  } catch (...) {  // not even room for that line
  }
}

}  // namespace

Loaded load(const ProcessFacts& facts) noexcept {
  Loaded loaded;
  try {
    bool named_by_user = false;
    std::string toml;
    loaded.source = "defaults";
    for (const std::string& place : places(facts.environment, &named_by_user)) {
      text::ReadProblem problem;
      auto found = text::read_text_file(place, kLargestFile, &problem);
      if (found) {
        toml = std::move(*found);
        loaded.source = place;
        break;
      }
      const bool absent = problem.error == ENOENT || problem.error == ENOTDIR;
      if (!absent || named_by_user) {
        loaded.problems.push_back(place + ": can't be read (" + problem.words + ")" +
                                  (named_by_user ? ", named by KVSHIM_CONFIG" : "") +
                                  "; the defaults hold");
        break;  // it is the first found, so no other takes its place
      }
    }
    const std::string* sets = find_variable(facts.environment, "KVSHIM_SET");
    read_everything(toml, loaded.source, facts,
                    sets == nullptr ? std::vector<std::string>() : split_sets(*sets), &loaded);
  } catch (...) {
    say_out_of_memory(&loaded);
  }
  return loaded;
}

Loaded load_text(const std::string& toml, const std::string& file_name, const ProcessFacts& facts,
                 std::span<const std::string> sets) noexcept {
  Loaded loaded;
  try {
    loaded.source = file_name;
    read_everything(toml, file_name, facts, sets, &loaded);
  } catch (...) {
    say_out_of_memory(&loaded);
  }
  return loaded;
}

}  // namespace kvshim::config
