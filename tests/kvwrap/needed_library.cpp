// What needy_library.cpp needs.
extern "C" [[gnu::visibility("default")]] int kvwrap_needed() { return 1; }
