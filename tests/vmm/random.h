// Repeatable random numbers of 32 bits (mt19937's own type has 64 on Linux).
#pragma once

#include <cstdint>
#include <random>

namespace kvshim::vmm::testing {

class Random {
 public:
  explicit Random(std::uint32_t seed) : engine_(seed) {}
  std::uint32_t operator()() { return static_cast<std::uint32_t>(engine_()); }

 private:
  std::mt19937 engine_;
};

}  // namespace kvshim::vmm::testing
