#include "tools/kvshim/invocation.h"

#include <CLI/CLI.hpp>
#include <iostream>
#include <string_view>

#include "tools/kvshim/outcome.h"
#include "tools/kvshim/screen_order.h"

namespace kvshim::cli {
namespace {

constexpr const char* kDescription =
    "Shows and steers the elastic GPU memory of engines that run under kvwrap.";

/// Adds commands to one app and remembers which was given.
class Commands {
 public:
  Commands(CLI::App& app, Invocation& invocation) : app_(app), invocation_(invocation) {}

  CLI::App* add(const std::string& name, const std::string& text, const std::string& more = {}) {
    CLI::App* command = app_.add_subcommand(name, text);
    command->footer(more);
    std::string* given = &invocation_.command;
    const std::string whole = prefix_ + name;
    command->callback([given, whole] { *given = whole; });
    return command;
  }
  void set_prefix(const std::string& prefix) { prefix_ = prefix; }

 private:
  CLI::App& app_;
  Invocation& invocation_;
  std::string prefix_;
};

void add_json(CLI::App* command, Invocation& invocation) {
  command->add_flag("--json", invocation.json, "Print one JSON document instead of text");
}

void add_target(CLI::App* command, Invocation& invocation, bool groups) {
  command
      ->add_option("target", invocation.target,
                   "Process id, or name as kvshim list shows it (or its beginning)" +
                       std::string(groups ? "; @GROUP for a group, @* for all processes" : ""))
      ->type_name("PID|NAME")
      ->required();
}

void add_interval(CLI::App* command, Invocation& invocation, const std::string& text) {
  command->add_option("--interval", invocation.interval, text)
      ->type_name("SECONDS")
      ->check(CLI::Range(0.1, 3600.0));
}

void add_control(CLI::App* command, Invocation& invocation) {
  command
      ->add_option("--gpu", invocation.gpu,
                   "Only on this GPU: its UUID, the beginning of that, or its place in kvshim list")
      ->type_name("GPU");
  command
      ->add_option("--wait", invocation.wait,
                   "How long to wait for the process to acknowledge (1; 0: not at all)")
      ->type_name("SECONDS")
      ->check(CLI::Range(0.0, 3600.0));
  add_json(command, invocation);
}

void describe_views(Commands& commands, Invocation& invocation) {
  CLI::App* top = commands.add(
      "top", "Shows GPUs and processes live",
      "Keys: arrows select, s next sort column, l limit, r release, p pause or resume, h or ?\n"
      "help, q quit. The bar: capitals are a process's other memory (weights, activations),\n"
      "small letters its KV in GPU memory, ~ its caches, # programs without kvshim, . free.\n");
  top->add_flag("--once", invocation.once, "Print one screen as plain text and end");
  add_json(top, invocation);
  add_interval(top, invocation, "Time between samples (1)");
  top->add_option("--sort", invocation.sort, "Column to sort by (kv)")
      ->type_name("COLUMN")
      ->check(CLI::IsMember(sort_names()));
  top->add_option("--width", invocation.width, "With --once: columns (the terminal's, else 80)")
      ->type_name("N")
      ->check(CLI::Range(20, 1000));
  top->add_option("--height", invocation.height, "With --once: most lines (as many as are needed)")
      ->type_name("N")
      ->check(CLI::Range(5, 1000));

  CLI::App* list = commands.add("list", "Lists the processes that run under kvshim");
  list->add_flag("--watch", invocation.watch, "Print the list again and again");
  add_interval(list, invocation, "With --watch: time between lists (2)");
  list->add_flag("--names", invocation.names, "Process ids and names only, one each line")
      ->group("");
  add_json(list, invocation);
}

void describe_controls(Commands& commands, Invocation& invocation) {
  CLI::App* limit = commands.add(
      "limit", "Limits the GPU memory of a process",
      "VALUE: a size (20GiB), a share of the GPU (50%), or none. The limit counts everything the\n"
      "process has on the GPU, so it can't be below what is not pool (weights, activations).\n");
  CLI::App* reserve = commands.add(
      "reserve", "Sets the GPU memory that neighbours never take from a process",
      "VALUE: a size (4GiB), a share of the GPU (10%), or none. The reserves of all processes of\n"
      "a GPU must fit into it.\n");
  for (CLI::App* command : {limit, reserve}) {
    add_target(command, invocation, true);
    command->add_option("value", invocation.value, "Size, percentage, or none")
        ->type_name("VALUE")
        ->required();
    add_control(command, invocation);
  }
  CLI::App* priority =
      commands.add("priority", "Sets who gives way first when memory is short",
                   "Processes of lower priority give way first; all start with 0.\n");
  add_target(priority, invocation, true);
  priority->add_option("priority", invocation.priority, "From -100 to 100")
      ->type_name("N")
      ->required()
      ->check(CLI::Range(-100, 100));
  add_control(priority, invocation);

  CLI::App* release =
      commands.add("release", "Releases the idle memory of processes now",
                   "Without --pid and --all: of the process, if there is just one.\n");
  CLI::Option* pid =
      release->add_option("--pid", invocation.target, "This process only")->type_name("PID|NAME");
  release->add_flag("--all", invocation.all, "All processes of this user")->excludes(pid);
  add_control(release, invocation);

  CLI::App* pause = commands.add("pause", "Stops a process from releasing its memory",
                                 "What is resident stays so until kvshim resume.\n");
  CLI::App* resume = commands.add("resume", "Ends a pause");
  for (CLI::App* command : {pause, resume}) {
    add_target(command, invocation, true);
    add_control(command, invocation);
  }
}

void describe_questions(CLI::App& app, Commands& commands, Invocation& invocation) {
  CLI::App* explain = commands.add(
      "explain", "Tells for each pool and kernel of a process what was decided and why");
  add_target(explain, invocation, false);
  add_json(explain, invocation);

  CLI::App* doctor = commands.add(
      "doctor", "Checks the machine, the configuration, and a process or command",
      "Each line is OK, WARN or FAIL with the remedy. Exit code 1 when a line says FAIL.\n\n"
      "Example:\n  kvshim doctor -- vllm serve Qwen/Qwen2.5-0.5B-Instruct\n");
  doctor->add_option("--pid", invocation.target, "Check this running process too")
      ->type_name("PID");
  add_json(doctor, invocation);
  doctor
      ->add_option("command", invocation.wrapped,
                   "The engine's command line (after --): checked, not run")
      ->type_name("COMMAND");

  CLI::App* config = app.add_subcommand("config", "Checks and shows the configuration");
  config->require_subcommand(1);
  Commands parts(*config, invocation);
  parts.set_prefix("config ");
  CLI::App* check =
      parts.add("check", "Checks a configuration file, or all that would be read here",
                "Exit code 1 when something is wrong.\n");
  check->add_option("file", invocation.file, "The file")->type_name("FILE");
  add_json(check, invocation);
  parts.add("sample", "Prints a commented file with all options and their defaults");
  CLI::App* show = parts.add("show", "Prints the options as they hold, and where they come from");
  show->add_option("--pid", invocation.target, "As they hold in this process")->type_name("PID");
  add_json(show, invocation);
}

void describe_outputs(Commands& commands, Invocation& invocation) {
  CLI::App* metrics = commands.add("metrics", "Prints the figures in Prometheus' text format",
                                   "Without options: once, to standard output.\n");
  CLI::Option* listen =
      metrics
          ->add_option("--listen", invocation.listen,
                       "Serve http://ADDRESS/metrics until stopped (:PORT is 127.0.0.1:PORT)")
          ->type_name("[HOST]:PORT");
  metrics
      ->add_option("--textfile", invocation.file,
                   "Write the file whole (for node_exporter's textfile collector)")
      ->type_name("FILE")
      ->excludes(listen);
  add_interval(metrics, invocation, "With --textfile: write again after this time, until stopped");

  CLI::App* bench = commands.add(
      "bench", "Measures this GPU's virtual memory calls and what they mean for the defaults",
      "Uses up to 2 GiB of GPU memory and 256 MiB of host memory for some seconds.\n");
  bench->add_option("--gpu", invocation.gpu, "Index of the GPU, as CUDA counts (0)")
      ->type_name("INDEX");
  bench->add_flag("--quick", invocation.quick, "Fewer repetitions");
  add_json(bench, invocation);

  CLI::App* completion = commands.add("completion", "Prints the completion for a shell",
                                      "For bash: eval \"$(kvshim completion bash)\"\n");
  completion->add_option("shell", invocation.shell, "bash, zsh or fish")
      ->type_name("SHELL")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh", "fish"}));
}

/// "kvshim config show": the program and as much of a command as was understood.
std::string given_part(const CLI::App& app) {
  std::string words = app.get_name();
  for (const CLI::App* at = &app; !at->get_subcommands().empty();) {
    at = at->get_subcommands().front();
    words += " " + at->get_name();
  }
  return words;
}

/// A line with a mistake was not read to its end, so its words are looked at themselves.
bool asks_for_json(int count, char** arguments) {
  for (int i = 1; i < count && std::string_view(arguments[i]) != "--"; ++i) {
    if (std::string_view(arguments[i]) == "--json") return true;
  }
  return false;
}

}  // namespace

void describe(CLI::App& app, Invocation& invocation) {
  app.description(kDescription);
  app.name("kvshim");
  app.set_version_flag("--version", std::string("kvshim ") + KVSHIM_VERSION,
                       "Print the version and exit");
  app.footer("\n" + exit_code_help());
  app.require_subcommand(1);
  Commands commands(app, invocation);
  describe_views(commands, invocation);
  describe_controls(commands, invocation);
  describe_questions(app, commands, invocation);
  describe_outputs(commands, invocation);
}

std::optional<Invocation> parse_invocation(int count, char** arguments, int* exit_code) {
  Invocation invocation;
  CLI::App app;
  describe(app, invocation);
  try {
    app.parse(count, arguments);
  } catch (const CLI::Success& done) {  // --help, --version
    *exit_code = app.exit(done, std::cout, std::cerr);
    return std::nullopt;
  } catch (const CLI::ParseError& error) {
    const Failure failure(Exit::kUsage,
                          std::string(error.what()) + " (see " + given_part(app) + " --help)");
    *exit_code = static_cast<int>(tell(failure, asks_for_json(count, arguments)));
    return std::nullopt;
  }
  if (!invocation.wrapped.empty() && invocation.wrapped.front() == "--") {
    invocation.wrapped.erase(invocation.wrapped.begin());
  }
  return invocation;
}

}  // namespace kvshim::cli
