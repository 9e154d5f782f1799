// Writes what is installed beside the program: the manual page and completions.
//   kvshim_documents FOLDER
#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>
#include <string>

#include "tools/kvshim/completion_text.h"
#include "tools/kvshim/invocation.h"
#include "tools/kvshim/manual_page.h"

int main(int count, char** arguments) {
  if (count != 2) {
    std::fprintf(stderr, "usage: kvshim_documents FOLDER\n");
    return 2;
  }
  CLI::App app;
  kvshim::cli::Invocation invocation;
  kvshim::cli::describe(app, invocation);
  const std::string folder = arguments[1];
  const auto write = [&](const std::string& name, const std::string& text) {
    std::ofstream file(folder + "/" + name);
    file << text;
    file.close();
    if (file) return true;
    std::fprintf(stderr, "kvshim_documents: can't write %s/%s\n", folder.c_str(), name.c_str());
    return false;
  };
  const bool good = write("kvshim.1", kvshim::cli::manual_page(app)) &&
                    write("kvshim.bash", kvshim::cli::completion_text(app, "bash")) &&
                    write("_kvshim", kvshim::cli::completion_text(app, "zsh")) &&
                    write("kvshim.fish", kvshim::cli::completion_text(app, "fish"));
  return good ? 0 : 1;
}
