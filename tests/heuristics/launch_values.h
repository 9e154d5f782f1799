// Test support: a kernel's parameter list with values, and its layout as
// cuFuncGetParamInfo would report it.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "heuristics/kernel_catalog.h"
#include "heuristics/profiles.h"

namespace kvshim::heuristics {

inline constexpr std::uint64_t kPool = 0x600000200000;
inline constexpr std::uint64_t kElsewhere = 0x7f0000000000;

inline const KernelCatalog& catalog() {
  static const Profiles* const profiles = new Profiles(Profiles::built_in());
  static const KernelCatalog* const instance = new KernelCatalog(*profiles);
  return *instance;
}

class LaunchBuilder {
 public:
  template <class T>
  LaunchBuilder& add(const T& value) {
    std::vector<unsigned char> bytes(sizeof value);
    std::memcpy(bytes.data(), &value, sizeof value);
    return add_bytes(std::move(bytes), alignof(T));
  }
  /// A by-value structure of `size` bytes, zero.
  LaunchBuilder& add_struct(std::size_t size, std::size_t alignment = 8) {
    return add_bytes(std::vector<unsigned char>(size), alignment);
  }
  LaunchBuilder& put(std::size_t param, std::size_t offset, std::uint64_t word) {
    std::memcpy(values_.at(param).data() + offset, &word, sizeof word);
    return *this;
  }
  LaunchBuilder& grid(std::uint32_t x, std::uint32_t y = 1, std::uint32_t z = 1) {
    grid_ = {x, y, z};
    return *this;
  }
  const std::vector<ParamLayout>& layout() const { return layout_; }
  LaunchValues values() const {
    pointers_.clear();
    for (const auto& value : values_) pointers_.push_back(value.data());
    return {pointers_, grid_, {128, 1, 1}};
  }

 private:
  LaunchBuilder& add_bytes(std::vector<unsigned char> bytes, std::size_t alignment) {
    end_ = (end_ + alignment - 1) / alignment * alignment;
    layout_.push_back({end_, bytes.size()});
    end_ += bytes.size();
    values_.push_back(std::move(bytes));
    return *this;
  }
  std::vector<ParamLayout> layout_;
  std::vector<std::vector<unsigned char>> values_;
  mutable std::vector<const void*> pointers_;
  std::array<std::uint32_t, 3> grid_{1, 1, 1};
  std::size_t end_ = 0;
};

}  // namespace kvshim::heuristics
