// The sample file and the reference page, from the options table.
#include <string>
#include <string_view>

#include "config/loader.h"
#include "config/option_table.h"

namespace kvshim::config {
namespace {

constexpr std::size_t kWidth = 92;

/// `text` broken into lines that start with `prefix`.
std::string wrapped(std::string_view text, std::string_view prefix) {
  std::string result(prefix);
  std::size_t column = prefix.size();
  while (!text.empty()) {
    const std::size_t end = text.find(' ');
    const std::string_view word = text.substr(0, end);
    if (column + 1 + word.size() > kWidth && column > prefix.size()) {
      result += "\n" + std::string(prefix);
      column = prefix.size();
    }
    result += " " + std::string(word);
    column += 1 + word.size();
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  }
  return result + "\n";
}

constexpr std::string_view kSampleHead =
    R"(# kvshim: sample configuration. Generated from the options table, do not edit.
#
# Copy it to ~/.config/kvshim/kvshim.toml, /etc/kvshim/kvshim.toml or any place that
# KVSHIM_CONFIG (or kvwrap --config) names; the first found is the only one read. Every line
# below that sets something is commented out and shows the default. What is wrong in this file
# is reported with its line, and the default holds.

)";

constexpr std::string_view kSampleSections =
    R"(# Rules decide about single allocations before the built-in profiles do; the first that
# matches decides. "call_site" is a POSIX extended regular expression, searched in the frames
# of the native and the Python stack.
#
#[[rules]]
#action = "allow"                      # or "deny"
#call_site = "_allocate_kv_cache"      # any, when absent
#min_size = "1GiB"
#max_size = "80GiB"
#role = "kv"                           # allocations of one role and size are siblings

# Options and rules for some processes only. All conditions must hold; "executable" and
# "command_line" are searched in those of the process itself and of its preloaded ancestors.
# Rules of a section come before the file's own.
#
#[[process]]
#match = { command_line = "vllm serve", environment = { CUDA_VISIBLE_DEVICES = "^0$" } }
#idle_timeout = "30s"
#
#[[process.rules]]
#action = "deny"
#max_size = "1GiB"
)";

constexpr std::string_view kPageHead = R"(# Configuration

Generated from `config/options.def`, do not edit (`cmake --build build/release --target config_documents`).

kvshim needs no configuration. What it reads, in this order, later ones winning:

1. the defaults below;
2. one TOML file, the first found of `$KVSHIM_CONFIG`, `$XDG_CONFIG_HOME/kvshim/kvshim.toml` (`~/.config` when unset), `/etc/kvshim/kvshim.toml`;
3. the file's `[[process]]` sections that match the process, in order;
4. the environment: `KVSHIM_<NAME>` for every option;
5. `kvwrap --set name=value` (which kvwrap passes on as `KVSHIM_SET`, one setting each line).

It is read once, when the process initialises CUDA; programs that never do so read nothing. `KVSHIM_DISABLE=1` turns everything off, whatever else is set.

Nothing wrong in a configuration stops a program. A wrong value, an unknown name, a pattern that doesn't compile: one line in the log (and from kvwrap) with file, line and column, and the default or the value before it holds. A file that isn't TOML is left out as a whole, and so is what is no regular file (a pipe, a device): it could make the program wait. A rule with any wrong part is left out as a whole, and a section with a condition that can't be evaluated doesn't match.

Sizes are written with a unit, `"64MiB"`, `"1.5GB"` (`KiB` to `TiB` are powers of 1024, `KB` to `TB` of 1000), or as a whole number of bytes; times with a unit, `"2s"`, `"300ms"`, `"5m"`. Patterns are POSIX extended regular expressions, searched anywhere in the text; anchor them with `^` and `$` where needed. Those that could take seconds or gigabytes don't compile: with back references (`\1`), with repetitions that come to more than 1000 copies when written out (`(a{1,40}){1,40}`; `+` makes two of what it repeats, nested ones multiply), with more than 16 anchors (`^`, `$`, `\b`, `\B`, `\<`, `\>`, `` \` ``, `\'`) or more than 200 alternatives and parts that may be empty (`a?`; `a+` counts as one, too), copies included, or more than 1000 when these two numbers are multiplied, with `*`, `+` or a count above one on what may be empty and holds a repetition, an alternative or an anchor (`(a*|b)+`), with groups nested more than 30 deep, or longer than 4096 characters. A `{` must begin a count, `{2}`, `{2,}`, `{,5}` or `{2,5}`; the character is written `\{` or `[{]`.

)";

constexpr std::string_view kPageSections = R"(## `[[rules]]`

Rules decide about single allocations of at least `min_size`, before the built-in profiles; the first that matches decides. They are tried in the file's order; those of matching `[[process]]` sections come first, the last section's first of all.

| key | value | meaning |
|---|---|---|
| `action` | `"allow"` or `"deny"` | Required. Makes the allocation a pool, or leaves it alone. |
| `call_site` | pattern | Searched in each frame of the native and of the Python stack. Absent: any. |
| `min_size`, `max_size` | size | Bounds of the allocation's size, both included. |
| `role` | text | Name of the sibling group: allocations of one role and size are made present together. |

## `[[process]]`

Options, and `[[process.rules]]`, for some processes only. `match` is required, and all its conditions must hold:

| condition | value | meaning |
|---|---|---|
| `executable` | pattern | Searched in the path of the process's executable and of its preloaded ancestors'. |
| `command_line` | pattern | Searched in the command line, joined by spaces, of the process, of its preloaded ancestors, and of what kvwrap was given. |
| `environment` | `{ NAME = "pattern" }` | Searched in the variable's value in the process itself; an unset variable doesn't match. |

```toml
[[process]]
match = { command_line = "vllm serve .*--no-enable-prefix-caching" }
contents = "disposable"
```
)";

}  // namespace

std::string sample_file() {
  const Options defaults;
  std::string text(kSampleHead);
  for (const OptionEntry& entry : option_table()) {
    text += wrapped(entry.text, "#");
    text += "#" + std::string(entry.name) + " = " + entry.as_toml(defaults) + "\n\n";
  }
  return text + std::string(kSampleSections);
}

std::string reference_page() {
  const Options defaults;
  std::string text(kPageHead);
  text += "## Options\n\n";
  for (const OptionEntry& entry : option_table()) {
    text += "### `" + std::string(entry.name) + "`\n\n";
    text += std::string(entry.text) + "\n\n";
    text += "Value: " + std::string(entry.kind) + ". Default: `" + entry.as_toml(defaults) +
            "`. Environment: `" + environment_name(entry.name) + "`.\n\n";
  }
  return text + std::string(kPageSections);
}

}  // namespace kvshim::config
