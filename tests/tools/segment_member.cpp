// A process in a segment, for tests of the tools: publishes what its arguments
// say, obeys what tools say (unless deaf), and lives until its standard input
// ends.
//   kvshim_segment_member FOLDER UUID [NAME=VALUE...]
#include <poll.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>

#include "segment/owner.h"

namespace kvshim {
namespace {

using Values = std::map<std::string, std::string>;

std::uint64_t number(const Values& values, const char* name, std::uint64_t otherwise = 0) {
  const auto found = values.find(name);
  return found == values.end() ? otherwise : std::strtoull(found->second.c_str(), nullptr, 10);
}

segment::Figures figures_of(const Values& values) {
  segment::Figures figures;
  figures.updated_ns = segment::monotonic_ns();
  figures.elastic = 1;
  figures.pools = 4;
  figures.pool_bytes = number(values, "pool_bytes");
  figures.resident = number(values, "resident");
  figures.parked = number(values, "parked");
  figures.absent = figures.pool_bytes - figures.resident - figures.parked;
  figures.device_cached = number(values, "cached");
  figures.other_bytes = number(values, "other");
  figures.gpu_free = number(values, "free");
  figures.faults = number(values, "faults");
  figures.fault_p99_us = number(values, "p99");
  figures.idle_ms = number(values, "idle_ms");
  figures.given_bytes = number(values, "given");
  figures.got_bytes = number(values, "got");
  figures.needs_answered = number(values, "answered");
  figures.needs_unanswered = number(values, "unanswered");
  return figures;
}

int run(const std::string& folder, const std::string& uuid, const Values& values) {
  segment::Identity identity = segment::own_identity();
  identity.gpu_total = number(values, "total");
  identity.gpu_name = "test GPU";
  if (values.contains("name")) {
    identity.name = values.at("name");
    identity.command_line = values.at("name");
  }
  if (values.contains("status")) identity.status_file = values.at("status");
  segment::Tick said;
  std::string why;
  const auto owner = segment::Owner::attach(folder, uuid, identity, {}, &said, &why);
  if (owner == nullptr) {
    std::fprintf(stderr, "%s\n", why.c_str());
    return 1;
  }
  const bool deaf = values.contains("deaf");
  segment::Settings settings;
  segment::Control control = owner->control(&settings.control_generation);
  owner->publish(figures_of(values), settings);
  std::printf("ready\n");
  std::fflush(stdout);
  for (;;) {
    pollfd input{STDIN_FILENO, POLLIN, 0};
    if (::poll(&input, 1, 0) > 0) return 0;
    owner->wait(std::chrono::milliseconds(20));
    owner->tick();
    if (deaf) continue;
    const std::uint64_t requests = control.release_requests;
    control = owner->control(&settings.control_generation);
    settings.limit = control.limit;
    settings.reserve = control.reserve;
    settings.priority = control.priority;
    settings.paused = control.paused;
    segment::Figures figures = figures_of(values);
    figures.releases = control.release_requests;
    if (control.release_requests != requests) std::printf("released\n"), std::fflush(stdout);
    owner->publish(figures, settings);
  }
}

}  // namespace
}  // namespace kvshim

int main(int count, char** arguments) {
  if (count < 3) return 2;
  kvshim::Values values;
  for (int i = 3; i < count; ++i) {
    const std::string text = arguments[i];
    values[text.substr(0, text.find('='))] = text.substr(text.find('=') + 1);
  }
  return kvshim::run(arguments[1], arguments[2], values);
}
