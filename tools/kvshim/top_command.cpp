// kvshim top: samples, keys, and the drawing of what screen.h says.
#include <sys/ioctl.h>
#include <unistd.h>

#include <clocale>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <string>

#include "tools/kvshim/commands.h"
#include "tools/kvshim/json_output.h"
#include "tools/kvshim/snapshot_source.h"
#include "tools/kvshim/terminal.h"
#include "tools/kvshim/top_session.h"
#include "tools/kvshim/top_steering.h"

#include <nlohmann/json.hpp>

namespace kvshim::cli {
namespace {

constexpr int kDefaultWidth = 80;
constexpr int kProbeAtOnce_ms = 20;  // of the 50 ms that --once may take
constexpr int kProbeLive_ms = 50;

std::string clock_text() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  char text[16] = "";
  if (::localtime_r(&now, &parts) != nullptr) std::strftime(text, sizeof text, "%H:%M:%S", &parts);
  return text;
}

int terminal_width() {
  winsize size{};
  if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return kDefaultWidth;
}

Exit print_once(const Invocation& invocation) {
  GpuProbe probe;
  const Snapshot snapshot = take_snapshot(segment_folder(), &probe, kProbeAtOnce_ms);
  const Exit exit = is_unreadable(snapshot) ? Exit::kForeignSegment : Exit::kDone;
  if (invocation.json) {
    print_json(json_of(snapshot, nullptr));
    return exit;
  }
  View view;
  view.live = false;
  view.sort = invocation.sort;
  view.clock = clock_text();
  const int width = invocation.width > 0 ? invocation.width : terminal_width();
  const int height = invocation.height > 0 ? invocation.height : 1 << 20;
  std::fputs(plain_text(render(snapshot, nullptr, view, width, height)).c_str(), stdout);
  return exit;
}

Exit run_live(const Invocation& invocation) {
  const std::string folder = segment_folder();
  GpuProbe probe;
  TopSession session(invocation.interval > 0 ? invocation.interval : 1);
  session.view().sort = invocation.sort;
  Terminal terminal;
  session.view().unicode = terminal.is_unicode();
  session.take(take_snapshot(folder, &probe, kProbeLive_ms));
  double sampled = static_cast<double>(segment::monotonic_ns()) / 1e9;
  for (;;) {
    terminal.draw(session.draw(terminal.width(), terminal.height(), clock_text()));
    const double now = static_cast<double>(segment::monotonic_ns()) / 1e9;
    const int key = terminal.wait_for_key(session.interval() - (now - sampled));
    if (terminal.is_gone()) return Exit::kDone;
    TopSession::Request request = TopSession::Request::kNone;
    if (key != Terminal::kNoKey) request = session.press(key);
    if (request == TopSession::Request::kQuit) return Exit::kDone;
    if (request != TopSession::Request::kNone && request != TopSession::Request::kSample) {
      session.say(steer(session, request));
    }
    const double later = static_cast<double>(segment::monotonic_ns()) / 1e9;
    if (request != TopSession::Request::kNone || later - sampled >= session.interval()) {
      session.take(take_snapshot(folder, &probe, kProbeLive_ms));
      sampled = later;
    }
  }
}

}  // namespace

Exit run_top(const Invocation& invocation) {
  std::setlocale(LC_ALL, "");
  std::setlocale(LC_NUMERIC, "C");
  const bool terminal = ::isatty(STDOUT_FILENO) != 0 && ::isatty(STDIN_FILENO) != 0;
  if (invocation.once || invocation.json || !terminal) return print_once(invocation);
  return run_live(invocation);
}

}  // namespace kvshim::cli
