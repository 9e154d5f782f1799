// Reading small files that the user named, in somebody else's process.
#pragma once

#include <cstddef>
#include <optional>
#include <string>

namespace kvshim::text {

struct ReadProblem {
  int error = 0;      // as errno has it; EINVAL for what is no regular file
  std::string words;  // such as "No such file or directory" or "not a regular file"
};

/// The file's text, at most `most_bytes`; nothing, and `*problem` says why, when it can't be
/// read. Never waits: a path can name a pipe without a writer or a device without an end, so
/// only regular files are read, and /dev/null, which is empty. Any thread.
std::optional<std::string> read_text_file(const std::string& path, std::size_t most_bytes,
                                          ReadProblem* problem);

}  // namespace kvshim::text
