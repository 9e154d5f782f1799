// A library that can't be loaded: it needs another one that isn't found.
extern "C" int kvwrap_needed();
extern "C" [[gnu::visibility("default")]] int kvwrap_needy_library() { return kvwrap_needed(); }
