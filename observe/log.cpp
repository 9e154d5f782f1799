#include "observe/log.h"

#include <pthread.h>
#include <signal.h>
#include <spdlog/async.h>
#include <spdlog/async_logger.h>
#include <spdlog/sinks/base_sink.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <memory>
#include <mutex>
#include <utility>

#include "observe/line_output.h"

namespace kvshim::log {
namespace {

using config::LogLevel;

/// Messages that wait for the log's thread; about 300 KiB, taken by open().
constexpr std::size_t kQueueMessages = 1024;

const char* level_word(spdlog::level::level_enum level) {
  switch (level) {
    case spdlog::level::debug:
      return "debug";
    case spdlog::level::warn:
      return "warning";
    case spdlog::level::err:
      return "error";
    default:
      return "info";
  }
}

spdlog::level::level_enum spdlog_level(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kError:
      return spdlog::level::err;
    case LogLevel::kOff:
      break;
  }
  return spdlog::level::off;
}

// In UTC, without the C library: it reads the environment, which the host may be changing just now.
std::string time_text(spdlog::log_clock::time_point time) {
  const auto day = std::chrono::floor<std::chrono::days>(time);
  const std::chrono::year_month_day date(day);
  const std::chrono::hh_mm_ss clock(std::chrono::floor<std::chrono::milliseconds>(time - day));
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z ", static_cast<int>(date.year()),
                     static_cast<unsigned>(date.month()), static_cast<unsigned>(date.day()),
                     clock.hours().count(), clock.minutes().count(), clock.seconds().count(),
                     clock.subseconds().count());
}

class LineSink final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  explicit LineSink(pid_t process) : process_(process) {}
  LineOutput& output() { return output_; }
  void close_soon() noexcept {
    output_.close_soon();
    standard_error_.close_soon();
  }

 private:
  void sink_it_(const spdlog::details::log_msg& message) override {
    const std::string prefix = (output_.is_file() ? time_text(message.time) : std::string()) +
                               "kvshim[" + std::to_string(process_) +
                               "]: " + level_word(message.level) + ": ";
    std::string text = prefix;
    for (const char c : message.payload) {
      text += c;
      if (c == '\n') text += prefix;  // every line says whose it is
    }
    text += '\n';
    if (!output_.write_line(text) && output_.is_file()) say_lost(errno);
  }
  // Once: a full disk loses every line.
  void say_lost(int error) {
    if (std::exchange(said_lost_, true)) return;
    standard_error_.write_line("kvshim[" + std::to_string(process_) +
                               "]: error: cannot write to log_file " + output_.path() + " (" +
                               std::strerror(error) + "), log lines are lost\n");
  }
  void flush_() override {}

  const pid_t process_;
  LineOutput output_;
  LineOutput standard_error_;
  bool said_lost_ = false;
};

/// One opened log. Never deleted: a thread may be inside write() at any time,
/// also while the process exits.
struct Log {
  pid_t process = 0;
  std::shared_ptr<LineSink> sink;
  std::shared_ptr<spdlog::details::thread_pool> thread;
  std::shared_ptr<spdlog::async_logger> logger;
};

std::atomic<Log*> current{nullptr};
std::atomic<LogLevel> threshold{LogLevel::kOff};

/// Keeps the host's signal handlers off a thread that is created in its scope,
/// and SIGPIPE from ending the host when the reader of the log is gone.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_{};
};

Log* log_of_this_process() noexcept {
  Log* log = current.load(std::memory_order_acquire);
  return log != nullptr && log->process == ::getpid() ? log : nullptr;
}

}  // namespace

void open(LogLevel level, const std::string& file) {
  if (level == LogLevel::kOff || log_of_this_process() != nullptr) return;
  auto log = std::make_unique<Log>();
  log->process = ::getpid();
  log->sink = std::make_shared<LineSink>(log->process);
  std::string complaint;
  if (!file.empty() && !log->sink->output().append_to(file)) {
    complaint = "cannot open log_file " + file + " (" +
                (errno == ENXIO ? "a pipe that nobody reads" : std::strerror(errno)) +
                "), logging to standard error";
  }
  {
    const SignalsBlocked blocked;
    log->thread = std::make_shared<spdlog::details::thread_pool>(
        kQueueMessages, 1, [] { pthread_setname_np(pthread_self(), "kvshim-log"); });
  }
  log->logger = std::make_shared<spdlog::async_logger>(
      "kvshim", log->sink, log->thread, spdlog::async_overflow_policy::overrun_oldest);
  log->logger->set_level(spdlog_level(level));
  // spdlog's own handler would print to standard error by itself.
  log->logger->set_error_handler([](const std::string&) {});
  Log* expected = current.load(std::memory_order_acquire);
  if (expected != nullptr && expected->process == log->process) return;  // lost a race
  if (!current.compare_exchange_strong(expected, log.get(), std::memory_order_acq_rel)) return;
  threshold.store(level, std::memory_order_release);
  static_cast<void>(log.release());
  if (!complaint.empty()) error(complaint);
}

void close() noexcept {
  Log* log = log_of_this_process();
  if (log == nullptr || !current.compare_exchange_strong(log, nullptr)) return;
  threshold.store(LogLevel::kOff, std::memory_order_release);
  try {
    log->sink->close_soon();
    const std::size_t lost = log->thread->overrun_counter();
    if (lost != 0) {
      log->logger->log(spdlog::level::warn,
                       std::to_string(lost) + " log lines were dropped: the reader was too slow");
    }
    log->thread.reset();  // writes what is queued, then joins
  } catch (...) {
    // The process is ending; there is nobody left to tell.
  }
}

void abandon_after_fork() noexcept {
  current.store(nullptr, std::memory_order_release);
  threshold.store(LogLevel::kOff, std::memory_order_release);
}

bool enabled(LogLevel level) noexcept {
  return level != LogLevel::kOff && level >= threshold.load(std::memory_order_acquire);
}

void write(LogLevel level, std::string_view text,
           std::chrono::system_clock::time_point when) noexcept {
  if (!enabled(level)) return;
  Log* log = log_of_this_process();
  if (log == nullptr) return;
  try {
    log->logger->log(when, spdlog::source_loc{}, spdlog_level(level),
                     spdlog::string_view_t(text.data(), text.size()));
  } catch (...) {
    // No memory for a line of text: the line is lost, the host goes on.
  }
}

}  // namespace kvshim::log
