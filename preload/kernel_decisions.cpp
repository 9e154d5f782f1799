#include "preload/kernel_decisions.h"

#include <array>
#include <map>
#include <utility>

namespace kvshim::preload {
namespace {

constexpr std::array<std::pair<LaunchReach::Kind, const char*>, 4> kTreatments{{
    {LaunchReach::Kind::kReads, "read"},
    {LaunchReach::Kind::kLinearWrite, "guarded write"},
    {LaunchReach::Kind::kFill, "fill"},
    {LaunchReach::Kind::kUnknown, "may write to pool ends"},
}};

const char* text_of(heuristics::KernelRole role) {
  switch (role) {
    case heuristics::KernelRole::kReader:
      return "reader";
    case heuristics::KernelRole::kWriter:
      return "writer";
    case heuristics::KernelRole::kZeroFill:
      return "zero fill";
    case heuristics::KernelRole::kUnknown:
      break;
  }
  return "unknown";
}

}  // namespace

std::vector<KernelDecision> kernel_decisions() {
  // A kernel loaded into several contexts has several infos.
  std::map<std::string, std::pair<const FunctionInfo*, unsigned>> by_name;
  for (const kernel_decisions_detail::Slot& slot : kernel_decisions_detail::slots) {
    const FunctionInfo* info = slot.info.load(std::memory_order_acquire);
    if (info == nullptr) continue;
    auto& entry = by_name[info->name.empty() ? "(unnamed)" : info->name];
    entry.first = info;
    entry.second |= slot.kinds.load(std::memory_order_relaxed);
  }
  std::vector<KernelDecision> all;
  for (const auto& [name, entry] : by_name) {
    const heuristics::KernelKnowledge& knowledge = *entry.first->knowledge;
    KernelDecision decision{name, text_of(knowledge.role), knowledge.reason, {}};
    for (const auto& [kind, text] : kTreatments) {
      if ((entry.second & (1u << static_cast<unsigned>(kind))) != 0) {
        decision.treated_as.emplace_back(text);
      }
    }
    all.push_back(std::move(decision));
  }
  return all;
}

}  // namespace kvshim::preload
