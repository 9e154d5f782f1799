// The Python part of a call-site, read without the GIL: a hook runs below an
// allocator's mutex, and whoever waits for the GIL there can deadlock.
#pragma once

#include <string>
#include <vector>

namespace kvshim::heuristics {

/// The calling thread's Python frames, innermost first, as "function file:line".
/// Empty when the thread runs no Python or its stack can't be read; `*why_empty`
/// (may be null) says which. Never takes the GIL, never throws, and a wrong
/// idea of the interpreter's structures makes it empty, not a crash.
std::vector<std::string> python_frames(std::string* why_empty) noexcept;

/// The lines of _Py_DumpTraceback as frames (for tests).
std::vector<std::string> parse_traceback(const std::string& text);

/// The source line of instruction `offset` (in code units) by a location table
/// of CPython 3.11 and newer; `first` when the table doesn't say.
int line_of_instruction(const std::vector<unsigned char>& table, int first, long offset);

}  // namespace kvshim::heuristics
