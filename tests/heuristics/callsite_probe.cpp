// Loaded into real Python interpreters by python_callsite_test.
#include <cstring>
#include <string>

#include "heuristics/python_callsite.h"
#include "heuristics/recognizer.h"

/// Writes the caller's frames, one a line: "P function file:line", "N symbol@object",
/// and "? reason" when Python's are empty. Returns the number of frames.
extern "C" __attribute__((visibility("default"))) int kvshim_test_call_site(char* to, int room) {
  std::string text;
  int count = 0;
  const kvshim::heuristics::CallSite site = kvshim::heuristics::capture_call_site();
  for (const std::string& frame : site.python) text += "P " + frame + "\n";
  for (const std::string& frame : site.native) text += "N " + frame + "\n";
  count = static_cast<int>(site.python.size() + site.native.size());
  if (site.python.empty()) {
    std::string why;
    kvshim::heuristics::python_frames(&why);
    text += "? " + why + "\n";
  }
  std::strncpy(to, text.c_str(), static_cast<std::size_t>(room) - 1);
  return count;
}
