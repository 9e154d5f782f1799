// A library that loads and does nothing.
extern "C" [[gnu::visibility("default")]] int kvwrap_good_library() { return 1; }
