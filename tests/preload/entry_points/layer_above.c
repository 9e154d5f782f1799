/* The first of two libraries that define layered_function. Asks for the next one,
   as an interposing library does; RTLD_NEXT depends on who is asking. */
#define _GNU_SOURCE
#include <dlfcn.h>

int layered_function(void) { return 1; }

int next_layered_function(void) {
  union {
    void* object;
    int (*function)(void);
  } next;
  next.object = dlsym(RTLD_NEXT, "layered_function");
  return next.function != 0 ? next.function() : -1;
}

void* next_function(const char* name) { return dlsym(RTLD_NEXT, name); }
