// Functions that newer glibc versions have and older ones lack, hidden in the
// object that this is linked into, which so stays loadable on glibc 2.35
// (Ubuntu 22.04). Only what the test of the built file (tests/link) asked for.
#include <sys/random.h>

#include <cstddef>
#include <cstdint>

// glibc 2.36. Debian 12's static libstdc++ calls it (std::random_device).
extern "C" std::uint32_t arc4random() {
  std::uint32_t word = 0;
  // getrandom of so few bytes is never partial; it can only be interrupted, or
  // wait for the kernel's first seed early at boot.
  while (getrandom(&word, sizeof word, 0) != static_cast<ssize_t>(sizeof word)) {
  }
  return word;
}

// The same of glibc 2.36; Debian 12's libevent calls it (kvshim, the command line).
extern "C" void arc4random_buf(void* buffer, std::size_t bytes) {
  auto* at = static_cast<unsigned char*>(buffer);
  while (bytes > 0) {
    const ssize_t got = getrandom(at, bytes, 0);
    if (got <= 0) continue;
    at += got;
    bytes -= static_cast<std::size_t>(got);
  }
}

// glibc 2.38. Its headers turn strtol and its kin into these, which also read
// C23's binary numbers ("0b11"); nothing here needs those.
extern "C" {
long plain_strtol(const char*, char**, int) __asm__("strtol");
long long plain_strtoll(const char*, char**, int) __asm__("strtoll");
unsigned long plain_strtoul(const char*, char**, int) __asm__("strtoul");
unsigned long long plain_strtoull(const char*, char**, int) __asm__("strtoull");

long __isoc23_strtol(const char* text, char** end, int base) {
  return plain_strtol(text, end, base);
}
long long __isoc23_strtoll(const char* text, char** end, int base) {
  return plain_strtoll(text, end, base);
}
unsigned long __isoc23_strtoul(const char* text, char** end, int base) {
  return plain_strtoul(text, end, base);
}
unsigned long long __isoc23_strtoull(const char* text, char** end, int base) {
  return plain_strtoull(text, end, base);
}
}
