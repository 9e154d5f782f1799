// The profiles' content after parsing: plain data with compiled patterns and
// expressions. docs/profiles.md describes the TOML form.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "heuristics/expression.h"
#include "heuristics/kernel_catalog.h"
#include "heuristics/profiles.h"
#include "text/pattern.h"

namespace kvshim::heuristics {

using text::Pattern;

/// One declared parameter of a kernel entry.
struct ParameterSpec {
  enum class Kind : std::uint8_t {
    kPointer,       // "ptr": to something writable
    kConstPointer,  // "const ptr"
    kInteger,       // "i8".."i64", "u8".."u64": `size` bytes, `is_signed`
    kElement,       // "element": a value of the element type, by value
    kOther,         // "f32", "f64", "bytes N": can't be named in expressions
  };
  std::string name;
  Kind kind = Kind::kOther;
  std::size_t size = 0;
  bool is_signed = false;
};

/// Names in expressions: parameter indices, and these.
struct ExpressionName {
  static constexpr std::uint32_t kElement = 1000;  // bytes of the element type
  static constexpr std::uint32_t kGrid = 1001;     // + 0, 1, 2 for x, y, z
  static constexpr std::uint32_t kBlock = 1004;    // + 0, 1, 2
  static constexpr std::uint32_t kField = 2000;    // + index into TableForm::fields
};

/// One layout of a cache that a writer knows, as the launch shows it.
struct WriterForm {
  /// Bytes of an element where no type tells them; the others' name "element".
  std::optional<Expression> element;
  std::uint32_t slots = 0;  // parameter index
  std::uint32_t slot_bytes = 8;
  std::int64_t skip_below = 0;
  Expression count;
  Expression block;
  struct Destination {
    std::uint32_t base = 0;  // parameter index
    Expression block_stride, slot_stride, length;
  };
  std::vector<Destination> destinations;
  /// Pairs that must be equal at a launch, else the form does not hold for it.
  std::vector<std::pair<Expression, Expression>> equal;
};

struct FillForm {
  std::uint32_t address = 0;  // parameter index
  std::uint32_t value = 0;    // parameter index: its bytes are the filled value
  Expression bytes;
};

/// A demand on the template arguments: of the kernel itself when `of` is empty,
/// else of the first instance of that template inside the kernel's name.
struct TemplateDemand {
  std::string of;
  std::string path;
  Pattern value;
};

/// Where a reader finds the ids of the blocks that it reads.
struct TableForm {
  /// A value inside a parameter.
  struct Field {
    std::string name;
    std::uint32_t param = 0;   // index
    std::uint32_t offset = 0;  // bytes
    std::uint32_t size = 8;    // bytes: 4 or 8
    bool is_signed = false;
    bool is_pointer = false;
  };
  std::vector<Field> fields;
  std::vector<TemplateDemand> demands;
  std::string element_path;  // template argument of the element type; empty: has none
  std::uint32_t ids = 0;     // index of a field
  std::optional<std::uint32_t> lengths;
  Expression row_stride, rows, entries, block;
  struct Part {
    std::uint32_t base = 0;  // index of a field
    Expression block_stride, length;
  };
  std::vector<Part> parts;
  std::vector<std::pair<Expression, Expression>> equal;  // as WriterForm::equal
};

struct KernelEntry {
  std::string label;  // "vllm: reshape_and_cache_flash"
  Pattern match;
  /// kUnknown stands for role = "layout": only the words are known.
  KernelRole role = KernelRole::kUnknown;
  bool stays_in_written = false;  // a reader; see KernelKnowledge
  std::optional<std::vector<ParameterSpec>> parameters;
  std::vector<TemplateDemand> demands;
  /// Where the element type stands: a path of template arguments ("1.0"), or
  /// "*name", what that parameter points to. Empty: the entry has none.
  std::string element_path;
  std::vector<WriterForm> writers;  // the first that holds at a launch counts
  std::optional<FillForm> fill;
  std::vector<TableForm> tables;  // of a reader; the first that fits the kernel counts
  struct Word {
    WordPlace place;
    bool read_only = false;
  };
  /// Words of by-value parameters that are pointers; parameters without an
  /// entry here are judged by their type.
  std::vector<Word> words;
  std::vector<std::uint32_t> parameters_with_words;
};

/// Which words of a by-value type are pointers.
struct TypeLayout {
  std::string label;
  Pattern type;
  std::vector<std::size_t> sizes;  // empty: any
  std::vector<std::size_t> words;
  std::vector<std::size_t> words_from_end;
  std::vector<std::size_t> read_only_words, read_only_words_from_end;
  std::string count_path;  // template argument that says how many words from offset 0
  std::string const_path;  // read-only when this template argument is const
  bool read_only = false;  // all words
  std::optional<int> live_grid_dimension;  // only the first grid[d] words are live
};

/// What speaks for a pool. All given conditions must hold.
struct PoolEvidence {
  std::string name;
  Pattern innermost_python;  // innermost frame outside `skip_python`
  Pattern any_python;        // some Python frame
  Pattern none_python;       // no Python frame may match
  Pattern any_native;        // some native frame
  bool has_innermost_python = false, has_any_python = false, has_none_python = false,
       has_any_native = false;
  bool process = false;  // only in a process of this engine
  std::size_t min_size = 0;
  std::size_t equal_in_a_row = 1;  // this many large requests of one size, this one included
  bool pool = true;                // false: evidence against
  std::string role = "kv";
};

struct Obstacle {
  std::string name;
  Pattern command_line;
  bool has_command_line = false;
  std::vector<std::string> environment;  // names, any of which may match `environment_value`
  Pattern environment_value;
  bool process = false;       // only in a process of this engine
  bool leaves_pools = false;  // allocations are left alone because of it
  std::string effect, remedy;
};

struct Profile {
  std::string name;
  std::string source;
  std::vector<Pattern> process_command_line;
  std::vector<Pattern> process_object;  // loaded shared objects
  Pattern skip_python;
  bool has_skip_python = false;
  std::vector<PoolEvidence> evidence;  // first match decides
  std::vector<Obstacle> obstacles;
  std::vector<KernelEntry> kernels;
  std::vector<TypeLayout> layouts;
};

struct Profiles::Impl {
  std::vector<Profile> profiles;  // the user's first, then the built-in ones
};

/// Parses one profile. `source` names it in messages. Errors are appended as
/// "source:line:column: message"; then the result is absent.
std::optional<Profile> parse_profile(const std::string& text, const std::string& source,
                                     std::vector<std::string>* errors);

/// A profile compiled into the library.
struct EmbeddedProfile {
  const char* name;
  const char* text;
};
/// Generated from heuristics/profiles/*.toml; ends with a null name.
extern const EmbeddedProfile kEmbeddedProfiles[];

}  // namespace kvshim::heuristics
