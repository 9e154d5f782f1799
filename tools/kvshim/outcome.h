// How a command ends: exit codes, one table for main, --help and the manual page,
// and the failure that carries one of them with what to do about it.
#pragma once

#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

namespace kvshim::cli {

enum class Exit : int {
  kDone = 0,
  kFindings = 1,
  kUsage = 2,
  kNoProcess = 3,
  kAmbiguous = 4,
  kRefused = 5,
  kNotAcknowledged = 6,
  kNoPermission = 7,
  kForeignSegment = 8,
  kNoGpu = 9,
  kCannotWrite = 10,
  kInternal = 125,
};

struct ExitMeaning {
  Exit code;
  std::string_view name;  // of the code in --json output
  std::string_view text;
};

/// All codes, in order.
std::span<const ExitMeaning> exit_meanings();

/// The codes as lines of help: "  3   no such process".
std::string exit_code_help();

/// A command that could not do what it was asked. `what()` says what is wrong and
/// what to do; nothing was changed unless it says so.
class Failure : public std::runtime_error {
 public:
  Failure(Exit code, const std::string& message) : std::runtime_error(message), code_(code) {}
  Exit code() const { return code_; }

 private:
  Exit code_;
};

/// Tells a failure on standard error and, with `json`, as one document
/// {"error": {"code", "name", "message"}} on standard output. Returns its code.
Exit tell(const Failure& failure, bool json);

}  // namespace kvshim::cli
