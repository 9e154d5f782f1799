// Completion scripts for shells, from the description of the command line.
#pragma once

#include <string>

namespace CLI {
class App;
}

namespace kvshim::cli {

/// `shell`: "bash", "zsh" or "fish". Completes commands, options, values that are
/// one of a few, and running processes (asks kvshim list --names). REQUIRES app to
/// be described (invocation.h).
std::string completion_text(const CLI::App& app, const std::string& shell);

}  // namespace kvshim::cli
