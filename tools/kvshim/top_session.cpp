#include "tools/kvshim/top_session.h"

#include <algorithm>
#include <array>

#include "tools/kvshim/screen_order.h"

namespace kvshim::cli {
namespace {

constexpr std::array<double, 8> kIntervals{0.1, 0.2, 0.5, 1, 2, 5, 10, 60};
constexpr std::size_t kLongestAnswer = 24;

double next_interval(double now, bool longer) {
  if (longer) {
    for (const double one : kIntervals) {
      if (one > now) return one;
    }
    return kIntervals.back();
  }
  for (std::size_t i = kIntervals.size(); i-- > 0;) {
    if (kIntervals[i] < now) return kIntervals[i];
  }
  return kIntervals.front();
}

}  // namespace

TopSession::TopSession(double interval) : interval_(interval) { view_.history = &history_; }

std::vector<TopSession::Choice> TopSession::choices() const {
  std::vector<Choice> all;
  for (const GpuFigures& gpu : now_.gpus) {
    std::vector<Row> rows;
    for (const ProcessFigures& process : gpu.processes) {
      const ProcessFigures* earlier =
          two_samples_ ? find_process(before_, gpu.uuid, process.pid) : nullptr;
      rows.push_back({process, rates_of(process, earlier, now_.seconds - before_.seconds)});
    }
    sort_rows(rows, view_.sort);
    for (const Row& row : rows) all.emplace_back(gpu.uuid, row.figures.pid);
  }
  return all;
}

void TopSession::move(int by) {
  const std::vector<Choice> all = choices();
  if (all.empty()) return;
  const auto found = std::find(all.begin(), all.end(), Choice{view_.gpu, view_.selected});
  auto place = found == all.end() ? (by > 0 ? 0 : static_cast<int>(all.size()) - 1)
                                  : static_cast<int>(found - all.begin()) + by;
  place = std::clamp(place, 0, static_cast<int>(all.size()) - 1);
  std::tie(view_.gpu, view_.selected) = all[static_cast<std::size_t>(place)];
}

const ProcessFigures* TopSession::selected_process() const {
  return view_.selected == 0 ? nullptr : find_process(now_, view_.gpu, view_.selected);
}

void TopSession::take(Snapshot snapshot) {
  two_samples_ = !now_.gpus.empty() || now_.seconds > 0;
  before_ = std::move(now_);
  now_ = std::move(snapshot);
  remember(now_, &history_);
  if (selected_process() == nullptr) {
    view_.selected = 0;
    view_.gpu.clear();
  }
}

void TopSession::say(std::string message) { view_.message = std::move(message); }

TopSession::Request TopSession::press_while_asked(int key) {
  const auto end = [this] {
    asked_ = false;
    view_.prompt.clear();
  };
  if (key == kKeyEscape) {
    end();
    return Request::kNone;
  }
  if (key == kKeyEnter || key == '\r') {
    end();
    return typed_.empty() ? Request::kNone : Request::kLimit;
  }
  if (key == kKeyBackspace || key == '\b') {
    if (!typed_.empty()) typed_.pop_back();
  } else if (key > 0x20 && key < 0x7f && typed_.size() < kLongestAnswer) {
    typed_ += static_cast<char>(key);
  }
  view_.prompt = "limit of " + std::to_string(view_.selected) +
                 " (20GiB, 50%, none; escape: leave it): " + typed_;
  return Request::kNone;
}

TopSession::Request TopSession::press(int key) {
  if (asked_) return press_while_asked(key);
  view_.message.clear();
  switch (key) {
    case 'q':
      return Request::kQuit;
    case 'h':
    case '?':
      view_.help = !view_.help;
      return Request::kNone;
    case kKeyEscape:
      view_.help = false;
      return Request::kNone;
    case 's':
      view_.sort = next_sort(view_.sort);
      return Request::kNone;
    case 'S':
      view_.sort = sort_names().front();
      return Request::kNone;
    case kKeyUp:
    case 'k':
      move(-1);
      return Request::kNone;
    case kKeyDown:
    case 'j':
      move(1);
      return Request::kNone;
    case '+':
      interval_ = next_interval(interval_, false);
      break;
    case '-':
      interval_ = next_interval(interval_, true);
      break;
    case ' ':
      return Request::kSample;
    case 'l':
    case 'r':
    case 'p': {
      if (selected_process() == nullptr) move(1);
      if (selected_process() == nullptr) {
        say("there is no process to steer");
        return Request::kNone;
      }
      if (key == 'r') return Request::kRelease;
      if (key == 'p') return Request::kPause;
      asked_ = true;
      typed_.clear();
      return press_while_asked(0);
    }
    default:
      return Request::kNone;
  }
  say("sampling every " + std::to_string(interval_).substr(0, 4) + " s");
  return Request::kNone;
}

std::vector<Line> TopSession::draw(int width, int height, const std::string& clock) {
  view_.clock = clock;
  return render(now_, two_samples_ ? &before_ : nullptr, view_, width, height);
}

}  // namespace kvshim::cli
