#include "tests/simulator/gpu_memory.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "tests/simulator/process.h"

namespace kvshim::simulator {
namespace {

constexpr std::size_t kSlots = 128;

// Byte n of the file is the life lock of slot n; the last one serialises the
// file's making. Plain fcntl locks: they belong to the process (a forked child
// has none) and die with it. Nothing here ever closes the file.
constexpr std::size_t kMakingLock = kSlots;

bool lock_byte(int fd, std::size_t byte, short type, int command) {
  struct flock lock {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = static_cast<off_t>(byte);
  lock.l_len = 1;
  int result = 0;
  do {
    result = fcntl(fd, command, &lock);
  } while (result != 0 && errno == EINTR);
  return result == 0;
}

bool locked_by_another(int fd, std::size_t byte) {
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = static_cast<off_t>(byte);
  lock.l_len = 1;
  return fcntl(fd, F_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

[[noreturn]] void give_up(const char* what) {
  std::perror(what);
  std::abort();
}

}  // namespace

struct GpuMemory::Shared {
  std::uint64_t made;  // 1 when the mutex is ready
  std::uint64_t total;
  pthread_mutex_t mutex;
  std::uint64_t used[kSlots];

  void lock() {
    // The owner died between two stores of one word each: nothing is half done.
    if (pthread_mutex_lock(&mutex) == EOWNERDEAD) pthread_mutex_consistent(&mutex);
  }
  void unlock() { pthread_mutex_unlock(&mutex); }
};

GpuMemory& GpuMemory::instance() {
  static GpuMemory* const memory = new GpuMemory;
  return *memory;
}

GpuMemory::GpuMemory() {
  const char* name = std::getenv("KVSHIM_SIM_GPU");
  void* place = nullptr;
  if (name == nullptr || *name == '\0') {
    place =
        mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  } else {
    std::string path = name;
    if (path.find('/') == std::string::npos) path = "/dev/shm/kvshim-simulated-gpu-" + path;
    fd_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd_ < 0) give_up(path.c_str());
    if (!lock_byte(fd_, kMakingLock, F_WRLCK, F_SETLKW)) give_up("lock of the simulated GPU");
    if (ftruncate(fd_, sizeof(Shared)) != 0) give_up("size of the simulated GPU");
    place = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
  }
  if (place == MAP_FAILED) give_up("simulated GPU");
  shared_ = static_cast<Shared*>(place);
  if (shared_->made == 0) {
    shared_->total = configured_memory();
    pthread_mutexattr_t kind;
    pthread_mutexattr_init(&kind);
    pthread_mutexattr_setpshared(&kind, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&kind, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&shared_->mutex, &kind);
    pthread_mutexattr_destroy(&kind);
    shared_->made = 1;
  }
  total_ = shared_->total;
  if (fd_ >= 0) {
    bool found = false;
    for (slot_ = 0; slot_ < kSlots && !found; ++slot_) {
      found = lock_byte(fd_, slot_, F_WRLCK, F_SETLK);
    }
    if (!found) give_up("no place left on the simulated GPU");
    --slot_;
    std::atomic_ref(shared_->used[slot_]).store(0);
    lock_byte(fd_, kMakingLock, F_UNLCK, F_SETLK);
  }
}

std::size_t GpuMemory::used_by_living(Shared& shared, std::size_t* others) const {
  *others = 0;
  for (std::size_t slot = 0; fd_ >= 0 && slot < kSlots; ++slot) {
    if (slot == slot_) continue;
    const auto used = std::atomic_ref(shared.used[slot]).load();
    if (used != 0 && locked_by_another(fd_, slot)) *others += used;
  }
  return *others + std::atomic_ref(shared.used[slot_]).load();
}

bool GpuMemory::take(std::size_t bytes) {
  shared_->lock();
  std::size_t others = 0;
  const std::size_t used = used_by_living(*shared_, &others);
  const bool fits = bytes <= total_ && used <= total_ - bytes;
  if (fits) std::atomic_ref(shared_->used[slot_]).fetch_add(bytes);
  shared_->unlock();
  return fits;
}

void GpuMemory::give_back(std::size_t bytes) {
  std::atomic_ref(shared_->used[slot_]).fetch_sub(bytes);
}

std::size_t GpuMemory::free_bytes() {
  shared_->lock();
  std::size_t others = 0;
  const std::size_t used = used_by_living(*shared_, &others);
  shared_->unlock();
  return used < total_ ? total_ - used : 0;
}

std::size_t GpuMemory::used_here() const { return std::atomic_ref(shared_->used[slot_]).load(); }

}  // namespace kvshim::simulator
