// Reads of this process's own memory that fail instead of faulting.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace kvshim::heuristics {

class OwnMemory {
 public:
  OwnMemory() = default;
  OwnMemory(const OwnMemory&) = delete;
  OwnMemory& operator=(const OwnMemory&) = delete;
  ~OwnMemory();

  /// False when [address, address + bytes) can't be read.
  bool read(std::uint64_t address, void* to, std::size_t bytes);
  template <class T>
  bool read(std::uint64_t address, T* to) {
    return read(address, to, sizeof *to);
  }

 private:
  int mem_file_ = -1;  // /proc/self/mem, where process_vm_readv is forbidden
};

}  // namespace kvshim::heuristics
