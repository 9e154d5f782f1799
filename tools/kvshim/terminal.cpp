#include "tools/kvshim/terminal.h"

#define NCURSES_WIDECHAR 1
#include <langinfo.h>
#include <ncurses.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>

#include "tools/kvshim/outcome.h"
#include "tools/kvshim/top_session.h"

namespace kvshim::cli {
namespace {

constexpr std::array<short, 6> kColors{COLOR_GREEN,   COLOR_CYAN, COLOR_YELLOW,
                                       COLOR_MAGENTA, COLOR_BLUE, COLOR_RED};
constexpr short kFirstProcessPair = 1;
constexpr short kWarningPair = 20;

attr_t attributes_of(const Span& span, bool colors) {
  switch (span.style) {
    case Style::kPlain:
      return A_NORMAL;
    case Style::kDim:
      return A_DIM;
    case Style::kBold:
      return A_BOLD;
    case Style::kHeading:
      return A_UNDERLINE;
    case Style::kSelected:
      return A_REVERSE;
    case Style::kWarning:
      return colors ? A_BOLD | COLOR_PAIR(kWarningPair) : A_BOLD;
    case Style::kProcess:
      if (!colors || span.process < 0) return A_NORMAL;
      return COLOR_PAIR(kFirstProcessPair + span.process % static_cast<int>(kColors.size()));
  }
  return A_NORMAL;
}

int translated(int key) {
  switch (key) {
    case ERR:
    case KEY_RESIZE:
      return Terminal::kNoKey;
    case KEY_UP:
      return kKeyUp;
    case KEY_DOWN:
      return kKeyDown;
    case KEY_BACKSPACE:
      return kKeyBackspace;
    case KEY_ENTER:
      return kKeyEnter;
    default:
      return key;
  }
}

}  // namespace

struct Terminal::State {
  SCREEN* screen = nullptr;
  bool colors = false;
  bool gone = false;
};

Terminal::Terminal() : state_(std::make_unique<State>()) {
  state_->screen = ::newterm(nullptr, stdout, stdin);
  if (state_->screen == nullptr) {
    const char* name = std::getenv("TERM");
    throw Failure(Exit::kUsage, std::string("the terminal '") + (name != nullptr ? name : "") +
                                    "' (TERM) is not known here; use kvshim top --once");
  }
  ::set_term(state_->screen);
  ::cbreak();
  ::noecho();
  ::curs_set(0);
  ::keypad(stdscr, TRUE);
  ::set_escdelay(50);
  state_->colors = ::has_colors() && ::start_color() == OK;
  if (state_->colors) {
    ::use_default_colors();
    for (std::size_t i = 0; i < kColors.size(); ++i) {
      ::init_pair(static_cast<short>(kFirstProcessPair + static_cast<short>(i)), kColors[i], -1);
    }
    ::init_pair(kWarningPair, COLOR_RED, -1);
  }
}

Terminal::~Terminal() {
  ::endwin();
  ::delscreen(state_->screen);
}

int Terminal::width() const { return std::max(COLS, 20); }
int Terminal::height() const { return std::max(LINES, 5); }

bool Terminal::is_unicode() const { return std::strcmp(::nl_langinfo(CODESET), "UTF-8") == 0; }
bool Terminal::is_gone() const { return state_->gone; }

void Terminal::draw(const std::vector<Line>& lines) {
  ::erase();
  int row = 0;
  for (const Line& line : lines) {
    ::move(row++, 0);
    for (const Span& span : line) {
      ::attrset(static_cast<int>(attributes_of(span, state_->colors)));
      ::addstr(span.text.c_str());
    }
  }
  ::attrset(A_NORMAL);
  ::refresh();
}

int Terminal::wait_for_key(double seconds) {
  ::timeout(static_cast<int>(std::clamp(seconds, 0.0, 1.0) * 1000));
  const int key = ::getch();
  if (key == ERR) {
    // A terminal that went away is readable at once and gives nothing.
    pollfd input{STDIN_FILENO, POLLIN, 0};
    if (::poll(&input, 1, 0) > 0 && (input.revents & (POLLHUP | POLLERR | POLLNVAL)) != 0) {
      state_->gone = true;
    }
  }
  return translated(key);
}

}  // namespace kvshim::cli
