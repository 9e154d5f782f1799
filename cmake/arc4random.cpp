// Debian 12's static libstdc++ calls arc4random (std::random_device), which
// glibc has only since 2.36. This one, hidden in the object it is linked into,
// keeps the object loadable on glibc 2.35 (Ubuntu 22.04).
#include <sys/random.h>

#include <cstdint>
#include <cstdlib>

extern "C" std::uint32_t arc4random() {
  std::uint32_t word = 0;
  // getrandom of so few bytes is never partial; it can only be interrupted, or
  // wait for the kernel's first seed early at boot.
  while (getrandom(&word, sizeof word, 0) != static_cast<ssize_t>(sizeof word)) {
  }
  return word;
}
