#include "heuristics/own_memory.h"

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>

namespace kvshim::heuristics {

OwnMemory::~OwnMemory() {
  if (mem_file_ >= 0) close(mem_file_);
}

bool OwnMemory::read(std::uint64_t address, void* to, std::size_t bytes) {
  if (bytes == 0) return true;
  if (mem_file_ < 0) {
    const iovec local{to, bytes};
    // NOLINTNEXTLINE(performance-no-int-to-ptr): an address by nature
    const iovec remote{reinterpret_cast<void*>(address), bytes};
    const ssize_t got = process_vm_readv(getpid(), &local, 1, &remote, 1, 0);
    if (got >= 0) return static_cast<std::size_t>(got) == bytes;
    if (errno != EPERM && errno != ENOSYS) return false;
    mem_file_ = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
    if (mem_file_ < 0) return false;
  }
  const ssize_t got = pread(mem_file_, to, bytes, static_cast<off_t>(address));
  return got >= 0 && static_cast<std::size_t>(got) == bytes;
}

}  // namespace kvshim::heuristics
