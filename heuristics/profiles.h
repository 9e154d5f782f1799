// The engines' profiles: TOML data compiled in, plus the user's own files.
#pragma once

#include <memory>
#include <string>
#include <vector>

namespace kvshim::heuristics {

class Profiles {
 public:
  /// The built-in profiles. A defect in one is a build-time test failure.
  static Profiles built_in();
  /// Adds a user's file; errors come back as one line each ("file:3:7: ...")
  /// and leave the profiles as they were.
  std::vector<std::string> add_file(const std::string& path);
  Profiles(Profiles&&) noexcept;
  Profiles& operator=(Profiles&&) noexcept;
  ~Profiles();

  struct Impl;
  const Impl& impl() const { return *impl_; }

 private:
  Profiles();
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvshim::heuristics
