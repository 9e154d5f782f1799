// Runs kvwrap as a user does.
#pragma once

#include <sys/types.h>

#include <map>
#include <string>
#include <vector>

namespace kvshim::kvwrap {

struct Outcome {
  pid_t process = 0;
  int status = 0;  // as from waitpid
  std::string output;
  std::string errors;

  /// The exit code, or minus the signal.
  int code() const;
};

using Extra = std::map<std::string, std::string>;

/// Runs `arguments` with a small environment (PATH and, unless `extra` says
/// otherwise, KVSHIM_LIBRARY = the good library and an empty configuration).
Outcome run_program(const std::vector<std::string>& arguments, const Extra& extra = {});

/// The same with kvwrap in front.
Outcome run_kvwrap(std::vector<std::string> arguments, const Extra& extra = {});

/// A folder that goes when the object does.
class TemporaryFolder {
 public:
  explicit TemporaryFolder(const std::string& name = "kvshim-kvwrap");
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::string& path() const { return path_; }
  std::string write(const std::string& name, const std::string& text) const;

 private:
  std::string path_;
};

}  // namespace kvshim::kvwrap
