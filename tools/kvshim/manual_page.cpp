#include "tools/kvshim/manual_page.h"

#include <algorithm>
#include <vector>

#include "tools/kvshim/command_table.h"
#include "tools/kvshim/outcome.h"

namespace kvshim::cli {
namespace {

/// Text for troff: backslashes, hyphens that are to be copied, and lines that
/// would be read as requests.
std::string troff(const std::string& text) {
  std::string result;
  bool line_start = true;
  for (const char c : text) {
    if (line_start && (c == '.' || c == '\'')) result += "\\&";
    if (c == '\\') {
      result += "\\e";
    } else if (c == '-') {
      result += "\\-";
    } else {
      result += c;
    }
    line_start = c == '\n';
  }
  return result;
}

std::string value_text(const OptionDescription& option) {
  return "\\fI" + troff(option.value.name) + "\\fR";
}

std::string option_heading(const OptionDescription& option) {
  std::string text;
  for (const std::string& name : option.names) {
    text += (text.empty() ? "" : ", ") + std::string("\\fB") + troff(name) + "\\fR";
  }
  if (option.takes_value) text += " " + value_text(option);
  return text;
}

std::string synopsis_of(const CommandDescription& command) {
  std::string text = "\\fBkvshim " + troff(command.name) + "\\fR";
  for (const OptionDescription& option : command.options) {
    if (option.names.back() == "--help") continue;
    text += " [\\fB" + troff(option.names.back()) + "\\fR";
    if (option.takes_value) text += " " + value_text(option);
    text += "]";
  }
  for (const OptionDescription& positional : command.positionals) {
    const std::string value = value_text(positional) + (positional.repeats ? "..." : "");
    if (positional.value.kind == ValueKind::kCommand) {
      text += " [\\fB\\-\\-\\fR " + value + "]";
    } else {
      text += positional.required ? " " + value : " [" + value + "]";
    }
  }
  return text;
}

/// Text from help: blank lines part paragraphs, indented lines are examples.
std::string paragraphs(const std::string& text) {
  std::string result;
  std::size_t begin = 0;
  while (begin < text.size()) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::string line = text.substr(begin, end - begin);
    if (line.empty()) {
      result += ".PP\n";
    } else if (line.starts_with("  ")) {
      result += ".RS\n.nf\n" + troff(line.substr(2)) + "\n.fi\n.RE\n";
    } else {
      result += troff(line) + "\n";
    }
    begin = end + 1;
  }
  return result;
}

std::string section_of(const CommandDescription& command) {
  std::string text = ".SS " + synopsis_of(command) + "\n" + troff(command.text) + ".\n";
  if (!command.footer.empty()) text += paragraphs(command.footer);
  for (const OptionDescription& option : command.options) {
    if (option.names.back() == "--help") continue;
    text += ".TP\n" + option_heading(option) + "\n" + troff(option.text) + ".\n";
    if (!option.value.choices.empty()) {
      std::string choices;
      for (const std::string& choice : option.value.choices) {
        choices += (choices.empty() ? "" : ", ") + choice;
      }
      text += "One of " + troff(choices) + ".\n";
    }
  }
  for (const OptionDescription& positional : command.positionals) {
    text += ".TP\n" + value_text(positional) + "\n" + troff(positional.text) + ".\n";
  }
  return text;
}

constexpr const char* kDescriptionSection =
    R"(.B kvshim
reads the shared segments in which the processes that run under
.BR kvwrap (1)
tell what they have, and steers those processes. It needs no GPU and no driver
.RB ( bench
and a part of
.B doctor
excepted), and sees the processes of the user who calls it.
.PP
A command that steers a process records what is wanted and waits, for a second by default, until the
process says that it goes by it. Nothing is changed when a command fails, except where its message
says so.
)";

constexpr const char* kFiles = R"(.TP
.I /dev/shm/kvshim\-<uid>\-GPU\-<uuid>
The shared segment of a user and GPU.
.TP
.I $XDG_RUNTIME_DIR/kvshim/<pid>.json, /tmp/kvshim\-<uid>/<pid>.json
What a process tells about itself in full; read by
.BR "kvshim explain" .
.TP
.I ~/.config/kvshim/kvshim.toml, /etc/kvshim/kvshim.toml
The configuration.
)";

constexpr const char* kEnvironment = R"(.TP
.B KVSHIM_CONFIG
The configuration file, in place of the ones looked for. Each option is also a variable
.BR KVSHIM_<NAME> ;
.B kvshim
itself uses those that name folders.
.TP
.B KVSHIM_LIBRARY
The library, where it is not beside the program or in its prefix; for
.BR "kvshim doctor" .
.TP
.B TERM
The terminal of
.BR "kvshim top" ;
block characters are used where the locale's character set is UTF\-8.
)";

}  // namespace

std::string manual_page(const CLI::App& app) {
  const std::vector<CommandDescription> commands = command_table(app);
  const CommandDescription& program = commands.front();
  std::string text = ".TH KVSHIM 1 \"\" \"kvshim " KVSHIM_VERSION "\" \"User Commands\"\n";
  text += ".SH NAME\nkvshim \\- shows and steers the elastic GPU memory of LLM engines\n";
  text += ".SH SYNOPSIS\n.B kvshim\n.I command\n[\\fIoptions\\fR]\n";
  for (const OptionDescription& option : program.options) {
    text += ".br\n.B kvshim\n" + option_heading(option) + "\n";
  }
  text += std::string(".SH DESCRIPTION\n") + kDescriptionSection;
  text += ".SH COMMANDS\n";
  for (const CommandDescription& command : commands) {
    if (command.name.empty() || !command.commands.empty()) continue;
    text += section_of(command);
  }
  text += ".SH EXIT STATUS\n";
  for (const ExitMeaning& meaning : exit_meanings()) {
    text += ".TP\n.B " + std::to_string(static_cast<int>(meaning.code)) + "\n" +
            troff(std::string(meaning.text)) + "\n";
  }
  text += std::string(".SH FILES\n") + kFiles + ".SH ENVIRONMENT\n" + kEnvironment;
  return text + ".SH SEE ALSO\n.BR kvwrap (1)\n";
}

}  // namespace kvshim::cli
