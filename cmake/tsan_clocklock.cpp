// Only in builds with ThreadSanitizer. gcc 12's runtime doesn't know
// pthread_mutex_clocklock, through which std::timed_mutex waits, and reports its
// unlock as one of an unlocked mutex. This one goes through a call that it knows.
#include <pthread.h>

#include <cerrno>
#include <ctime>

extern "C" int pthread_mutex_clocklock(pthread_mutex_t* mutex, clockid_t clock,
                                       const timespec* deadline) {
  constexpr long kSecond = 1'000'000'000;
  timespec now{};
  timespec on_wall{};
  if (clock_gettime(clock, &now) != 0 || clock_gettime(CLOCK_REALTIME, &on_wall) != 0) {
    return EINVAL;
  }
  on_wall.tv_sec += deadline->tv_sec - now.tv_sec;
  on_wall.tv_nsec += deadline->tv_nsec - now.tv_nsec;
  if (on_wall.tv_nsec < 0) {
    on_wall.tv_nsec += kSecond;
    --on_wall.tv_sec;
  } else if (on_wall.tv_nsec >= kSecond) {
    on_wall.tv_nsec -= kSecond;
    ++on_wall.tv_sec;
  }
  return pthread_mutex_timedlock(mutex, &on_wall);
}
