#include "tools/kvshim/completion_text.h"

#include <CLI/CLI.hpp>
#include <vector>

#include "tools/kvshim/command_table.h"
#include "tools/kvshim/process_files.h"

namespace kvshim::cli {
namespace {

std::string shell_word(const std::string& text) {
  std::string result;
  for (const char c : text) result += c == '\'' ? "'\\''" : std::string(1, c);
  return "'" + result + "'";
}

/// What can follow, as a bash expression that fills COMPREPLY.
std::string bash_values(const ValueDescription& value) {
  switch (value.kind) {
    case ValueKind::kChoices:
      return "COMPREPLY=($(compgen -W " + shell_word(joined(value.choices)) + " -- \"$word\"))";
    case ValueKind::kProcess:
      return "COMPREPLY=($(compgen -W \"$(kvshim list --names 2>/dev/null)\" -- \"$word\"))";
    case ValueKind::kFile:
      return "COMPREPLY=($(compgen -f -- \"$word\"))";
    case ValueKind::kCommand:
      return "COMPREPLY=($(compgen -c -- \"$word\"))";
    case ValueKind::kOther:
      break;
  }
  return "COMPREPLY=()";
}

std::string bash_command(const CommandDescription& command) {
  std::string text = "    " + shell_word(command.name) + ")\n";
  std::string options;
  std::string values;
  for (const OptionDescription& option : command.options) {
    for (const std::string& name : option.names) options += (options.empty() ? "" : " ") + name;
    if (option.takes_value) {
      std::string names;
      for (const std::string& name : option.names) names += (names.empty() ? "" : "|") + name;
      values += "        " + names + ") " + bash_values(option.value) + "; return ;;\n";
    }
  }
  if (!values.empty()) text += "      case $previous in\n" + values + "      esac\n";
  text += "      if [[ $word == -* ]]; then\n        COMPREPLY=($(compgen -W " +
          shell_word(options) + " -- \"$word\"))\n        return\n      fi\n";
  if (!command.commands.empty()) {
    text += "      COMPREPLY=($(compgen -W " + shell_word(joined(command.commands)) +
            " -- \"$word\"))\n";
  }
  if (!command.positionals.empty()) {
    text += "      case $place in\n";
    for (std::size_t i = 0; i < command.positionals.size(); ++i) {
      text += "        " + std::to_string(i) + ") " + bash_values(command.positionals[i].value) +
              " ;;\n";
    }
    text += "      esac\n";
  }
  return text + "      ;;\n";
}

std::string bash_text(const std::vector<CommandDescription>& commands) {
  std::string named;
  std::string taking;
  for (const CommandDescription& command : commands) {
    named += (named.empty() ? "" : "|") + shell_word(command.name);
    for (const OptionDescription& option : command.options) {
      if (!option.takes_value) continue;
      for (const std::string& name : option.names) taking += (taking.empty() ? "" : "|") + name;
    }
  }
  std::string text =
      "# bash completion for kvshim. Generated from its command line.\n"
      "_kvshim() {\n"
      "  local word=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]}\n"
      "  local command='' place=0 i\n"
      "  COMPREPLY=()\n"
      "  for ((i = 1; i < COMP_CWORD; i++)); do\n"
      "    case ${COMP_WORDS[i]} in\n"
      "      " +
      taking +
      ") ((i++)); continue ;;\n"
      "      -*) continue ;;\n"
      "    esac\n"
      "    case \"${command:+$command }${COMP_WORDS[i]}\" in\n"
      "      " +
      named +
      ")\n"
      "        command=${command:+$command }${COMP_WORDS[i]}; place=0; continue ;;\n"
      "    esac\n"
      "    ((place++))\n"
      "  done\n"
      "  case $command in\n";
  for (const CommandDescription& command : commands) text += bash_command(command);
  return text + "  esac\n}\ncomplete -o default -F _kvshim kvshim\n";
}

/// For _arguments: brackets and colons have a meaning there.
std::string zsh_escaped(const std::string& text) {
  std::string result;
  for (const char c : text) {
    if (c == '[' || c == ']' || c == ':' || c == '\\') result += '\\';
    result += c;
  }
  return result;
}

std::string zsh_values(const ValueDescription& value) {
  switch (value.kind) {
    case ValueKind::kChoices:
      return "(" + joined(value.choices) + ")";
    case ValueKind::kProcess:
      return "_kvshim_processes";
    case ValueKind::kFile:
      return "_files";
    case ValueKind::kCommand:
      return "_command_names";
    case ValueKind::kOther:
      break;
  }
  return " ";
}

std::string zsh_text(const std::vector<CommandDescription>& commands) {
  std::string text =
      "#compdef kvshim\n"
      "# zsh completion for kvshim. Generated from its command line.\n"
      "_kvshim_processes() {\n"
      "  local -a known\n"
      "  known=(${(f)\"$(kvshim list --names 2>/dev/null)\"})\n"
      "  compadd -a known\n"
      "}\n"
      "_kvshim() {\n"
      "  local command=''\n"
      "  [[ $CURRENT -gt 2 ]] && command=$words[2]\n"
      "  if [[ $command == config && $CURRENT -gt 3 ]]; then\n"
      "    command=\"config $words[3]\"; shift words; ((CURRENT--))\n"
      "  fi\n"
      "  [[ -n $command ]] && { shift words; ((CURRENT--)) }\n"
      "  case $command in\n";
  for (const CommandDescription& command : commands) {
    text += "    " + (command.name.empty() ? "''" : shell_word(command.name)) + ")\n";
    text += "      _arguments";
    for (const OptionDescription& option : command.options) {
      for (const std::string& name : option.names) {
        std::string spec = name + "[" + zsh_escaped(option.text) + "]";
        if (option.takes_value) {
          spec += ":" + zsh_escaped(option.value.name) + ":" + zsh_values(option.value);
        }
        text += " \\\n        " + shell_word(spec);
      }
    }
    for (const OptionDescription& positional : command.positionals) {
      text += " \\\n        " + shell_word(":" + zsh_escaped(positional.value.name) + ":" +
                                           zsh_values(positional.value));
    }
    if (!command.commands.empty()) {
      text += " \\\n        " + shell_word("1:command:(" + joined(command.commands) + ")");
    }
    text += "\n      ;;\n";
  }
  return text +
         "  esac\n}\n[[ $funcstack[1] == _kvshim ]] && _kvshim \"$@\" || compdef _kvshim kvshim\n";
}

std::string fish_condition(const CommandDescription& command) {
  if (command.name.empty()) return "__fish_use_subcommand";
  std::string condition;
  std::size_t begin = 0;
  while (begin <= command.name.size()) {  // "config check": both must have been said
    const std::size_t end = std::min(command.name.find(' ', begin), command.name.size());
    condition += (condition.empty() ? "" : "; and ") + std::string("__fish_seen_subcommand_from ") +
                 command.name.substr(begin, end - begin);
    begin = end + 1;
  }
  return condition;
}

std::string fish_values(const ValueDescription& value) {
  switch (value.kind) {
    case ValueKind::kChoices:
      return " -f -a " + shell_word(joined(value.choices));
    case ValueKind::kProcess:
      return " -f -a '(kvshim list --names 2>/dev/null)'";
    case ValueKind::kFile:
      return " -F";
    case ValueKind::kCommand:
      return " -f -a '(__fish_complete_command)'";
    case ValueKind::kOther:
      break;
  }
  return " -f";
}

std::string fish_text(const std::vector<CommandDescription>& commands) {
  std::string text =
      "# fish completion for kvshim. Generated from its command line.\ncomplete -c kvshim -f\n";
  for (const CommandDescription& command : commands) {
    const std::string start = "complete -c kvshim -n " + shell_word(fish_condition(command));
    for (const std::string& name : command.commands) {
      text += start + " -a " + name;
      for (const CommandDescription& other : commands) {
        const std::string whole = command.name.empty() ? name : command.name + " " + name;
        if (other.name == whole) text += " -d " + shell_word(other.text);
      }
      text += "\n";
    }
    for (const OptionDescription& option : command.options) {
      text += start;
      for (const std::string& name : option.names) {
        text += name.starts_with("--") ? " -l " + name.substr(2) : " -s " + name.substr(1);
      }
      if (option.takes_value) text += " -r" + fish_values(option.value);
      text += " -d " + shell_word(option.text) + "\n";
    }
    for (const OptionDescription& positional : command.positionals) {
      if (positional.value.kind != ValueKind::kOther)
        text += start + fish_values(positional.value) + "\n";
    }
  }
  return text;
}

}  // namespace

std::string completion_text(const CLI::App& app, const std::string& shell) {
  const std::vector<CommandDescription> commands = command_table(app);
  if (shell == "zsh") return zsh_text(commands);
  if (shell == "fish") return fish_text(commands);
  return bash_text(commands);
}

}  // namespace kvshim::cli
