// Decides whether an allocation is a KV pool, from its size, call-sites, the
// process's identity, what was allocated before, and the user's rules.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace kvshim::heuristics {

/// Who this process is: its own command line and its preloaded ancestors'
/// (nearest first), and what kvwrap passed on. Read once; never changes.
struct ProcessIdentity {
  std::string executable;                           // resolved path
  std::vector<std::string> command_line;            // own argv
  std::vector<std::vector<std::string>> ancestors;  // argv of each ancestor
  std::vector<std::string> wrapped_command;         // from kvwrap, may be empty
};
/// Reads /proc of this process and its ancestors; no allocation of CUDA, no lock.
ProcessIdentity read_process_identity();

/// Where an allocation was asked for.
struct CallSite {
  std::vector<std::string> native;  // "symbol@object" innermost first
  std::vector<std::string> python;  // "function file.py:line" innermost first; empty when none
};
/// Walks the native stack (libunwind, results cached by return address) and,
/// without taking the GIL, the Python one. Call only for large allocations:
/// tens of microseconds to a millisecond. Never throws.
CallSite capture_call_site() noexcept;

/// A user's rule ([[rules]] of the configuration).
struct Rule {
  enum class Action : std::uint8_t { kAllow, kDeny } action = Action::kAllow;
  std::string call_site;  // regular expression over frames; empty: any
  std::size_t min_size = 0;
  std::size_t max_size = SIZE_MAX;
  std::string role;    // label of the sibling group; empty: "kv"
  std::string source;  // "file:line" for the log
};

struct AllocationRequest {
  std::size_t bytes = 0;
  int device = 0;
  const char* entry_point = "";  // "cuMemAlloc_v2"
  CallSite call_site;
};

struct Decision {
  bool pool = false;
  std::string role;    // e.g. "kv"; siblings share size, call-site and role
  std::string group;   // key of the sibling group
  std::string reason;  // why, always set: goes to the log and the status file
};

class Profiles;

class Recognizer {
 public:
  struct Settings {
    std::size_t min_size = std::size_t{256} << 20;  // below: never a pool, no stack walk
    std::vector<Rule> rules;
    /// Paths of the loaded shared objects, asked for when an allocation is
    /// decided; replaceable for tests. Null: those of this process.
    std::vector<std::string> (*loaded_objects)() = nullptr;
  };
  Recognizer(const Profiles& profiles, ProcessIdentity identity, Settings settings);
  ~Recognizer();
  /// Below this many bytes the answer is always "no" and decide() need not be called.
  std::size_t threshold() const noexcept;
  /// Decides; remembers the request (siblings, the warning about large
  /// allocations left alone). Thread-safe. Never calls the driver.
  Decision decide(const AllocationRequest& request);
  /// The warning about large allocations left alone while there is no pool
  /// (`pools` made so far): at once when one of them looks like a KV pool (three
  /// of one size and call-site, or 4 GiB), so not for the first weights; else
  /// with `at_exit`. A rule that takes one is part of it only when some were left alone
  /// because nothing recognised them: never against an obstacle, a profile that knows them
  /// as something else, or a rule of the user's. Text once for each largest candidate,
  /// empty otherwise.
  std::string left_alone_warning(std::size_t pools, bool at_exit = false);
  /// Reasons why this process's pools can't be made elastic at all (a KV
  /// connector on the command line, expandable_segments, sleep mode), each
  /// with its remedy; empty when none.
  std::vector<std::string> obstacles() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvshim::heuristics
