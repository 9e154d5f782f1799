// What is known about a kernel, from its name and the layout of its
// parameters: whether it only reads pools, where it writes, whether it is a
// zero fill, and which of its words are pointers at all. Knowledge is data
// (profiles/*.toml); this file only evaluates it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace kvshim::heuristics {

/// One kernel parameter as cuFuncGetParamInfo describes it (bytes).
struct ParamLayout {
  std::size_t offset = 0;
  std::size_t size = 0;
};

/// The values an expression of a profile can name at one launch. `params[i]`
/// points to the bytes of parameter i (as kernelParams does).
struct LaunchValues {
  std::span<const void* const> params;
  std::array<std::uint32_t, 3> grid{};
  std::array<std::uint32_t, 3> block{};
};

/// An 8-byte word of a parameter.
struct WordPlace {
  std::uint16_t param = 0;
  std::uint16_t offset = 0;  // within the parameter, a multiple of 8
  friend bool operator==(const WordPlace&, const WordPlace&) = default;
};

enum class KernelRole : std::uint8_t {
  kUnknown,   // may write everything from each pool word to its pool's end
  kReader,    // writes its results, never what it reads: the cache in a pool
  kWriter,    // writes what `WriterForm` says, no other part of the cache
  kZeroFill,  // fills one range with one value (see FillForm)
};

/// A writer's slots and destinations evaluated for one launch, in bytes.
struct WriterCall {
  std::uint64_t slots = 0;       // device address
  std::uint32_t slot_bytes = 8;  // 4 or 8
  std::uint64_t count = 0;
  std::int64_t skip_below = 0;
  std::uint64_t block = 1;
  struct Destination {
    std::uint64_t base = 0, block_stride = 0, slot_stride = 0, length = 0;
  };
  std::vector<Destination> destinations;  // 1 to 4
};

/// A reader's block table evaluated for one launch, in bytes. Which values a profile's
/// mistake can bring about is the caller's to think of.
struct TableCall {
  std::uint64_t ids = 0;         // device address: int32 block ids, a row for each sequence
  std::uint64_t row_stride = 0;  // from row to row
  std::uint64_t rows = 0;
  std::uint64_t entries = 0;  // most ids in a row
  std::uint64_t lengths = 0;  // device address: int32 tokens of each row; 0: rows are full
  std::uint64_t block = 1;    // tokens in a block
  struct Part {
    std::uint64_t base = 0, block_stride = 0, length = 0;
  };
  std::vector<Part> parts;  // 1 to 4: where a block's keys and values lie
};

/// A fill evaluated for one launch.
struct FillCall {
  std::uint64_t address = 0;
  std::uint64_t bytes = 0;
  bool zero = false;
};

/// Everything known about one kernel; immutable, shared by all launches of it.
class KernelKnowledge {
 public:
  virtual ~KernelKnowledge() = default;
  KernelRole role = KernelRole::kUnknown;
  /// kReader: the profile vouches that it never looks at slots that nobody wrote,
  /// but for the writer's first ones. A wrong vouch stops the engine with an
  /// illegal address; it can't make a result wrong.
  bool stays_in_written = false;
  /// Words that can be pointers. Only these are scanned. For a kernel of
  /// which nothing is known: every aligned word of every parameter.
  std::vector<WordPlace> words;
  /// Parallel to `words`: the word is a pointer to const (by the demangled
  /// parameter list), or the entry's layout says so: the kernel doesn't write
  /// through it. An access through such a word is a read from there to the end
  /// of the pool. A kernel all of whose pool words are read-only is a reader.
  std::vector<bool> word_is_read_only;
  /// True when a word of `words` past the first `n` depends on the launch
  /// (CatArrayBatchedCopy: only the first gridDim.y entries are live).
  virtual bool word_is_live(WordPlace, const LaunchValues&) const { return true; }
  /// kWriter only. Nothing when the values make no sense (count over 2^31,
  /// block 0, more than 4 destinations): treat the kernel as unknown then.
  virtual std::optional<WriterCall> writer_call(const LaunchValues&) const { return std::nullopt; }
  /// kZeroFill only; nothing when it can't be evaluated: treat as unknown.
  virtual std::optional<FillCall> fill_call(const LaunchValues&) const { return std::nullopt; }
  /// kReader only: it reads the blocks that a table names, and nothing else of a cache.
  bool has_table = false;
  /// Nothing when the values make no sense or a check of the profile doesn't hold: then it
  /// isn't known what the launch reads.
  virtual std::optional<TableCall> table_call(const LaunchValues&) const { return std::nullopt; }
  /// One phrase for the log: which profile and entry decided, or why unknown.
  std::string reason;
};

class Profiles;

class KernelCatalog {
 public:
  /// `profiles` must outlive the catalog.
  explicit KernelCatalog(const Profiles& profiles);
  ~KernelCatalog();
  /// Classifies a kernel. `mangled_name` as cuFuncGetName gives it. A profile
  /// entry applies only if name pattern and parameter list both match; an
  /// older signature falls through to unknown. Pure; any thread; microseconds
  /// to milliseconds (call once per function and keep the result).
  std::shared_ptr<const KernelKnowledge> classify(std::string_view mangled_name,
                                                  std::span<const ParamLayout> params) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvshim::heuristics
