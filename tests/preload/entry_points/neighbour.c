/* Another preload that interposes a function of the driver, as tracers do: counts
   and passes on to the next in line. */
#define _GNU_SOURCE
#include <dlfcn.h>

int neighbour_calls = 0;

int cuMemFree_v2(unsigned long long address) {
  union {
    void* object;
    int (*function)(unsigned long long);
  } next;
  ++neighbour_calls;
  next.object = dlsym(RTLD_NEXT, "cuMemFree_v2");
  return next.function(address);
}
