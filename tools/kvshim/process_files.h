// What /proc says of a process.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace kvshim::cli {

/// Whether the process exists in this pid namespace (zombies too).
bool process_exists(std::int64_t pid);
/// Its effective user; -1 when it doesn't exist.
std::int64_t user_of(std::int64_t pid);
/// Arguments; empty when they can't be read.
std::vector<std::string> command_line_of(std::int64_t pid);
/// The path of its executable; empty when it can't be read.
std::string executable_of(std::int64_t pid);
/// The environment that it was started with; false when it can't be read.
bool environment_of(std::int64_t pid, std::vector<std::pair<std::string, std::string>>* variables);
/// Paths of files mapped into it, each once; empty when that can't be read.
std::vector<std::string> mapped_files(std::int64_t pid);
/// 0 when unknown.
std::int64_t parent_of(std::int64_t pid);
/// All of a file, at most 16 MiB; empty when it can't be read.
std::string text_of(const std::string& path);

/// The variable's value; empty when it isn't there.
std::string value_of(const std::vector<std::pair<std::string, std::string>>& variables,
                     const std::string& name);
std::string joined(const std::vector<std::string>& words);

}  // namespace kvshim::cli
