// Other processes on the same GPU, as the mechanism sees them: who can be asked for
// memory, and what they ask for.
#pragma once

#include <cstdint>

namespace kvshim::vmm {

/// What memory is lacking for.
enum class Lack : std::uint8_t {
  kRestore,  // parked contents want to come back: can wait
  kFault,    // a write waits on the GPU; host memory helps, slower
  kPlain,    // an allocation of the engine itself: host memory can't help
};

/// What a process could give at the moment, bytes.
struct Giver {
  std::uint64_t gpu_free = 0;
  std::uint64_t floor = 0;  // that pools leave free
  std::uint64_t spare = 0;  // of pools, above the reserve
  std::uint64_t idle_ms = 0;
};

/// Thread-safe; no call waits for the GPU or for another process, or takes a lock of
/// the mechanism. Calls take microseconds.
class Pressure {
 public:
  virtual ~Pressure() = default;

  /// Whether there is anybody to ask: a cached answer, one load.
  virtual bool anyone_else() const noexcept = 0;
  /// GPU memory that pools and caches of other processes hold just now.
  virtual std::uint64_t elastic_elsewhere() noexcept = 0;
  /// Pools and caches of this process hold so much more GPU memory (or less): said before it is
  /// made and after it was released. Under a lock of the mechanism.
  virtual void holds_more(std::int64_t bytes) noexcept = 0;

  /// Tells the neighbours what is lacking; they may give more than that, so that a
  /// sequence of faults doesn't ask for each. True: it is worth to wait for it; false:
  /// nobody is there, or the last such need went unanswered a moment ago.
  virtual bool ask(Lack lack, std::uint64_t bytes) noexcept = 0;
  /// While faults lack memory in quick succession: when less than this is free beyond what
  /// one takes now, it is time to ask, so that nobody waits at the next one. 0 mostly; a
  /// load or two.
  virtual std::uint64_t wanted_ahead() const noexcept = 0;
  /// Tells the neighbours that a fault is about to take `bytes` of that, and goes on. Not
  /// more often than they can hear it.
  virtual void ask_ahead(std::uint64_t bytes) noexcept = 0;
  /// Bytes that neighbours need more urgently than this process (higher priority, or as
  /// high and asked earlier): what becomes free is theirs first.
  virtual std::uint64_t needed_before_us() noexcept = 0;
  /// What was said to the need in force.
  struct Answers {
    std::uint64_t bytes = 0;      // freed for it so far, and one for each who has begun
    bool refused_by_all = false;  // nobody has anything to give (any more)
  };
  virtual Answers answers() noexcept = 0;
  /// The end of a wait: there was room in the end, or there was none.
  virtual void ended(Lack lack, bool got) noexcept = 0;

  /// Whether a neighbour needs anything. Cheaper than the next one.
  virtual bool anyone_asks() noexcept = 0;
  /// Bytes that this process is to give now: by the rules of priority and idleness, what
  /// living neighbours need and the GPU's free memory doesn't cover; at most `spare`.
  virtual std::uint64_t asked_of_us(const Giver& us) noexcept = 0;
  /// Bytes that neighbours lack beyond `gpu_free`, whoever gives them, of what is free only
  /// what lies above `floor` being for pools. Nobody is answered.
  virtual std::uint64_t lacked(std::uint64_t gpu_free, std::uint64_t floor) noexcept = 0;
  /// Looking for idle contents and copying them takes its time: those who wait are told
  /// that it has begun.
  virtual void begins_to_give() noexcept = 0;
  /// And that it is over: until then whoever comes to need something is told the same.
  virtual void ends_giving() noexcept = 0;
  /// `bytes` were freed; 0: nothing can be given now, so nobody need wait for it.
  virtual void gave(std::uint64_t bytes) noexcept = 0;
};

}  // namespace kvshim::vmm
