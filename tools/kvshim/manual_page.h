// kvshim's manual page, from the description of its command line.
#pragma once

#include <string>

namespace CLI {
class App;
}

namespace kvshim::cli {

/// kvshim.1 as troff (man macros). REQUIRES app to be described (invocation.h).
std::string manual_page(const CLI::App& app);

}  // namespace kvshim::cli
