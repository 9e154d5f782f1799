// Neighbours as a test wants them.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>

#include "vmm/pressure.h"

namespace kvshim::vmm::testing {

class FakePressure final : public Pressure {
 public:
  bool anyone_else() const noexcept override { return there.load(); }
  std::uint64_t elastic_elsewhere() noexcept override { return elsewhere.load(); }
  void holds_more(std::int64_t bytes) noexcept override {
    held.fetch_add(bytes);
    if (on_held) on_held();
  }
  bool ask(Lack lack, std::uint64_t bytes) noexcept override {
    asked_for.store(bytes);
    last_lack.store(lack);
    asks.fetch_add(1);
    if (on_ask) on_ask(bytes);
    return worth_waiting.load();
  }
  std::uint64_t wanted_ahead() const noexcept override { return ahead.load(); }
  void ask_ahead(std::uint64_t bytes) noexcept override {
    asked_ahead_for.store(bytes);
    asks_ahead.fetch_add(1);
  }
  std::uint64_t needed_before_us() noexcept override { return before_us.load(); }
  Answers answers() noexcept override { return {answered.load(), refused.load()}; }
  void ended(Lack, bool got) noexcept override { (got ? ended_with : ended_without).fetch_add(1); }
  bool anyone_asks() noexcept override { return wanted.load() != 0 || lacking.load() != 0; }
  std::uint64_t asked_of_us(const Giver& us) noexcept override {
    idle_ms.store(us.idle_ms);
    const std::uint64_t bytes = wanted.load(), done = given.load();
    if (bytes > done && us.spare == 0) gave(0);
    std::uint64_t none = 0;
    first_spare.compare_exchange_strong(none, us.spare);
    return std::min(bytes > done ? bytes - done : 0, us.spare);
  }
  std::uint64_t lacked(std::uint64_t gpu_free, std::uint64_t floor) noexcept override {
    const std::uint64_t all = lacking.load() + floor;
    return lacking.load() != 0 && all > gpu_free ? all - gpu_free : 0;
  }
  void begins_to_give() noexcept override { begun.fetch_add(1); }
  void ends_giving() noexcept override { endings.fetch_add(1); }
  void gave(std::uint64_t bytes) noexcept override {
    given.fetch_add(bytes);
    if (bytes == 0) refusals.fetch_add(1);
    if (bytes != 0 && on_gift) on_gift();
  }

  std::atomic<std::int64_t> held{0};
  std::function<void()> on_held;
  std::atomic<bool> there{true}, worth_waiting{true}, refused{false};
  std::atomic<std::uint64_t> elsewhere{0}, before_us{0}, answered{0};
  std::atomic<std::uint64_t> ahead{0}, asked_ahead_for{0}, asks_ahead{0};
  std::atomic<std::uint64_t> asked_for{0}, asks{0}, ended_with{0}, ended_without{0};
  std::atomic<Lack> last_lack{Lack::kFault};
  /// What neighbours want of this process, and what they got.
  std::atomic<std::uint64_t> first_spare{0};  // that was not 0
  std::atomic<std::uint64_t> lacking{0};      // what a process that works may give
  std::atomic<std::uint64_t> wanted{0}, given{0}, refusals{0}, begun{0}, endings{0}, idle_ms{0};
  // Set before anything runs:
  std::function<void(std::uint64_t)> on_ask;
  std::function<void()> on_gift;
};

}  // namespace kvshim::vmm::testing
