#include "preload/gifts.h"

#include <algorithm>
#include <new>
#include <vector>

#include "preload/answer_words.h"
#include "preload/needs.h"

namespace kvshim::preload {
namespace {

// Between the turns of those who could give.
constexpr std::uint64_t kTurnNs = 4'000'000;
constexpr std::uint64_t kMostTurns = 3;

std::uint64_t turn(const segment::Owner& owner, const vmm::Giver& us, std::int64_t priority) {
  std::vector<GiverSeen> others;
  for (const segment::NeighbourState& state : owner.states()) {
    const segment::Figures& f = state.figures;
    const std::uint64_t held = f.resident + f.device_cached + f.other_bytes;
    const std::uint64_t spare = held > state.settings.reserve ? held - state.settings.reserve : 0;
    others.push_back({state.settings.priority, f.idle_ms,
                      state.settings.paused != 0 ? 0 : std::min(spare, f.resident), state.index});
  }
  return givers_before({priority, us.idle_ms, us.spare, owner.index()}, others);
}

// None when there is no memory to list them: who waits then hears nothing, and has his patience.
std::vector<segment::NeighbourNeed> needs_of(const segment::Owner& owner) noexcept {
  try {
    return owner.needs();
  } catch (const std::bad_alloc&) {
    return {};
  }
}

}  // namespace

Gifts::Said& Gifts::said_to(const segment::NeighbourNeed& need) noexcept {
  Said& said = said_[need.index];
  if (said.claim != need.claim || said.serial != need.need.serial) {
    said = {need.claim, need.need.serial};
  }
  return said;
}

// mutex_ held. Bytes that are freed for it count, whoever has freed them.
std::uint64_t Gifts::still_owed(const segment::NeighbourNeed& need,
                                std::uint64_t lacking) noexcept {
  if (need.need.kind == segment::NeedKind::kPlain) return UINT64_MAX;
  const std::uint64_t freed = AnswerWords(need.answered_bytes).freed;
  Said& said = said_to(need);
  if (!said.looked) {
    said.looked = true;
    said.owed = lacking;
    said.before = freed;
  }
  const std::uint64_t since = freed - std::min(freed, said.before);
  return said.owed - std::min(said.owed, since);
}

std::uint64_t Gifts::asked_of(segment::Owner& owner, const vmm::Giver& us,
                              std::int64_t priority) noexcept {
  try {
    std::vector<NeedSeen> needs;
    std::uint64_t oldest = UINT64_MAX;
    const std::vector<segment::NeighbourNeed> found = owner.needs();
    for (const segment::NeighbourNeed& need : found) {
      needs.push_back(seen(need));
      oldest = std::min(oldest, need.need.posted_ns);
    }
    if (needs.empty()) return 0;
    std::uint64_t wanted = uncovered(needs, us.gpu_free, us.floor, us.idle_ms);
    if (wanted == 0) return 0;
    if (us.spare == 0 || us.idle_ms < kLeastIdleMs) {
      gave(owner, 0);
      return 0;
    }
    const std::uint64_t before = std::min(kMostTurns, turn(owner, us, priority));
    const std::uint64_t now = segment::monotonic_ns();
    if (now > oldest && now - oldest < before * kTurnNs) return 0;
    std::lock_guard lock(mutex_);
    std::uint64_t owed = 0;
    for (const segment::NeighbourNeed& need : found) {
      const std::uint64_t part = still_owed(need, wanted);
      owed = part > UINT64_MAX - owed ? UINT64_MAX : owed + part;
    }
    wanted = std::min(wanted, owed);
    return std::min(wanted, us.spare);
  } catch (const std::bad_alloc&) {
    return 0;
  }
}

std::uint64_t Gifts::lacked_by(const segment::Owner& owner, std::uint64_t gpu_free,
                               std::uint64_t floor) noexcept {
  try {
    std::vector<NeedSeen> needs;
    for (const segment::NeighbourNeed& need : needs_of(owner)) needs.push_back(seen(need));
    return uncovered(needs, gpu_free, floor, kLeastIdleForRestoreMs);
  } catch (const std::bad_alloc&) {
    return 0;
  }
}

void Gifts::begins(segment::Owner& owner) noexcept {
  std::lock_guard lock(mutex_);
  for (const segment::NeighbourNeed& need : needs_of(owner)) {
    Said& said = said_to(need);
    if (said.begun == AnswerWords::kMostBegun) continue;
    ++said.begun;
    owner.answer(need, AnswerWords::kBegun);
  }
}

void Gifts::goes_on(segment::Owner& owner) {
  std::lock_guard lock(mutex_);
  for (const segment::NeighbourNeed& need : needs_of(owner)) {
    Said& said = said_to(need);
    if (said.begun != 0 || said.refused) continue;
    ++said.begun;
    owner.answer(need, AnswerWords::kBegun);
  }
}

void Gifts::gave(segment::Owner& owner, std::uint64_t bytes) noexcept {
  std::lock_guard lock(mutex_);
  std::vector<segment::NeighbourNeed> needs = needs_of(owner);
  if (bytes == 0) {
    for (const segment::NeighbourNeed& need : needs) {
      Said& said = said_to(need);
      if (said.refused) continue;
      said.refused = true;
      owner.answer(need, AnswerWords::kRefusal);
    }
    return;
  }
  std::sort(needs.begin(), needs.end(),
            [](const auto& a, const auto& b) { return served_before(seen(a), seen(b)); });
  for (const segment::NeighbourNeed& need : needs) {
    // What is left when all have theirs was freed for the last one: the floor, a whole extent.
    const bool last = &need == &needs.back();
    // A need is met in many pieces: what it has got is not dealt to it again.
    Said& said = said_to(need);
    const std::uint64_t part =
        last ? bytes : std::min(bytes, need.need.bytes - std::min(need.need.bytes, said.dealt));
    said.dealt += part;
    if (part >= AnswerWords::kWhole) owner.answer(need, part - part % AnswerWords::kWhole);
    bytes -= part;
  }
}

}  // namespace kvshim::preload
