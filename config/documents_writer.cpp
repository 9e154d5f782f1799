// Writes the sample file and the reference page: documents_writer SAMPLE PAGE
#include <cstdio>
#include <fstream>

#include "config/loader.h"

int main(int count, char** arguments) {
  if (count != 3) {
    std::fputs("usage: config_documents_writer SAMPLE_FILE REFERENCE_PAGE\n", stderr);
    return 2;
  }
  std::ofstream(arguments[1]) << kvshim::config::sample_file();
  std::ofstream(arguments[2]) << kvshim::config::reference_page();
  return 0;
}
