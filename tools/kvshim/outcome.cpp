#include "tools/kvshim/outcome.h"

#include <array>
#include <cstdio>
#include <nlohmann/json.hpp>

namespace kvshim::cli {
namespace {

constexpr std::array<ExitMeaning, 12> kMeanings{{
    {Exit::kDone, "done", "done as asked"},
    {Exit::kFindings, "findings", "doctor or config check found something that has to be repaired"},
    {Exit::kUsage, "usage", "a mistake in the command line"},
    {Exit::kNoProcess, "no-process", "no such process, or none that runs under kvshim"},
    {Exit::kAmbiguous, "ambiguous", "the name fits several processes, or the process several GPUs"},
    {Exit::kRefused, "refused",
     "the value can't be: above the GPU, below what can't be released, or of one group too many"},
    {Exit::kNotAcknowledged, "not-acknowledged",
     "recorded, but the process did not acknowledge it in time"},
    {Exit::kNoPermission, "no-permission", "no permission"},
    {Exit::kForeignSegment, "foreign-segment",
     "the shared segment is of another version and in use, or damaged"},
    {Exit::kNoGpu, "no-gpu", "no usable driver or GPU"},
    {Exit::kCannotWrite, "cannot-write",
     "a file or the output can't be read or written, or an address not be listened on"},
    {Exit::kInternal, "internal", "a defect of this program"},
}};

}  // namespace

std::span<const ExitMeaning> exit_meanings() { return kMeanings; }

std::string exit_code_help() {
  std::string text = "Exit codes:\n";
  for (const ExitMeaning& meaning : kMeanings) {
    std::string code = std::to_string(static_cast<int>(meaning.code));
    code.resize(5, ' ');
    text += "  " + code + std::string(meaning.text) + "\n";
  }
  return text;
}

Exit tell(const Failure& failure, bool json) {
  if (json) {
    std::string_view name = "internal";
    for (const ExitMeaning& meaning : kMeanings) {
      if (meaning.code == failure.code()) name = meaning.name;
    }
    const nlohmann::json document = {{"error",
                                      {{"code", static_cast<int>(failure.code())},
                                       {"name", name},
                                       {"message", failure.what()}}}};
    std::printf("%s\n",
                document.dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
  }
  std::fprintf(stderr, "kvshim: %s\n", failure.what());
  return failure.code();
}

}  // namespace kvshim::cli
