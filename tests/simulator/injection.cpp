#include "tests/simulator/injection.h"

#include <unistd.h>

#include <array>
#include <atomic>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <string_view>
#include <thread>
#include <vector>

#include "tests/simulator/contexts.h"
#include "tests/simulator/export_table.h"
#include "tests/simulator/process.h"

namespace kvshim::simulator {
namespace {

std::array<std::atomic<unsigned long>, kExportRows> counts;

struct Failure {
  std::string name;
  unsigned long nth = 1;
  bool onwards = false;
  CUresult result = CUDA_ERROR_OUT_OF_MEMORY;
  std::atomic<unsigned long> seen{0};
};

struct Injections {
  std::vector<std::vector<Failure*>> failures = std::vector<std::vector<Failure*>>(kExportRows);
  std::vector<std::chrono::nanoseconds> delays =
      std::vector<std::chrono::nanoseconds>(kExportRows, std::chrono::nanoseconds{0});
};

std::string_view without_suffixes(std::string_view name) {
  for (const std::string_view tail : {"_ptsz", "_ptds"}) {
    if (name.ends_with(tail)) name.remove_suffix(tail.size());
  }
  if (name.size() > 3 && name[name.size() - 3] == '_' && name[name.size() - 2] == 'v') {
    name.remove_suffix(3);
  }
  return name;
}

bool names_row(std::string_view asked, std::string_view row) {
  return asked == row || asked == without_suffixes(row);
}

template <class Number>
std::string_view take_number(std::string_view text, Number* number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *number);
  if (error != std::errc{}) {
    std::fprintf(stderr, "kvshim simulator: not a number: '%.*s'\n", static_cast<int>(text.size()),
                 text.data());
    std::abort();  // a test with a misspelled injection must not pass
  }
  return text.substr(static_cast<std::size_t>(end - text.data()));
}

template <class Function>
void for_each_item(const char* variable, Function&& function) {
  const char* text = std::getenv(variable);
  std::string_view rest = text == nullptr ? "" : text;
  while (!rest.empty()) {
    const std::string_view item = rest.substr(0, rest.find(','));
    rest.remove_prefix(item.size() == rest.size() ? item.size() : item.size() + 1);
    const auto colon = item.find(':');
    if (colon == std::string_view::npos) {
      std::fprintf(stderr, "kvshim simulator: %s: '%.*s' has no ':'\n", variable,
                   static_cast<int>(item.size()), item.data());
      std::abort();
    }
    function(item.substr(0, colon), item.substr(colon + 1));
  }
}

void check_named(bool named, const char* variable, std::string_view name) {
  if (named) return;
  std::fprintf(stderr, "kvshim simulator: %s names no entry point: '%.*s'\n", variable,
               static_cast<int>(name.size()), name.data());
  std::abort();
}

Injections* read_injections() {
  auto* injections = new Injections;
  const auto rows = export_rows();
  for_each_item("KVSHIM_SIM_FAIL", [&](std::string_view name, std::string_view how) {
    auto* failure = new Failure;
    failure->name = name;
    how = take_number(how, &failure->nth);
    if (how.starts_with('+')) {
      failure->onwards = true;
      how.remove_prefix(1);
    }
    if (how.starts_with('=')) {
      int result = 0;
      take_number(how.substr(1), &result);
      failure->result = static_cast<CUresult>(result);
    }
    bool named = false;
    for (std::size_t row = 0; row < rows.size(); ++row) {
      if (!names_row(name, rows[row].name)) continue;
      injections->failures[row].push_back(failure);
      named = true;
    }
    check_named(named, "KVSHIM_SIM_FAIL", name);
  });
  for_each_item("KVSHIM_SIM_DELAY", [&](std::string_view name, std::string_view how) {
    long amount = 0;
    const std::string_view unit = take_number(how, &amount);
    std::chrono::nanoseconds delay = std::chrono::microseconds(amount);
    if (unit == "ms") delay = std::chrono::milliseconds(amount);
    if (unit == "s") delay = std::chrono::seconds(amount);
    bool named = false;
    for (std::size_t row = 0; row < rows.size(); ++row) {
      if (!names_row(name, rows[row].name)) continue;
      injections->delays[row] = delay;
      named = true;
    }
    check_named(named, "KVSHIM_SIM_DELAY", name);
  });
  return injections;
}

const Injections& injections() {
  static const Injections* const read = read_injections();
  return *read;
}

}  // namespace

CUresult enter(unsigned row, Needs needs) noexcept {
  counts[row].fetch_add(1, std::memory_order_relaxed);
  if (needs != Needs::kNothing) {
    if (const CUresult state = process_state(); state != CUDA_SUCCESS) return state;
  }
  const Injections& injected = injections();
  if (const auto delay = injected.delays[row]; delay.count() != 0) {
    std::this_thread::sleep_for(delay);
  }
  for (Failure* failure : injected.failures[row]) {
    const unsigned long nth = failure->seen.fetch_add(1) + 1;
    if (nth == failure->nth || (failure->onwards && nth > failure->nth)) return failure->result;
  }
  if (needs == Needs::kContext || needs == Needs::kWork) {
    Context* context = current_context();
    if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
    if (!context->alive.load()) return CUDA_ERROR_CONTEXT_IS_DESTROYED;
    if (needs == Needs::kWork) return context->sticky.load();
  }
  return CUDA_SUCCESS;
}

unsigned long calls_of(unsigned row) noexcept { return counts[row].load(); }

std::string report_file(const char* variable) {
  const char* text = std::getenv(variable);
  std::string name = text == nullptr ? "" : text;
  if (const auto place = name.find("%p"); place != std::string::npos) {
    name.replace(place, 2, std::to_string(getpid()));
  }
  return name;
}

void write_trace() {
  const std::string name = report_file("KVSHIM_SIM_TRACE");
  if (name.empty()) return;
  std::FILE* file = std::fopen(name.c_str(), "we");
  if (file == nullptr) return;
  const auto rows = export_rows();
  for (std::size_t row = 0; row < rows.size(); ++row) {
    if (const auto count = counts[row].load(); count != 0) {
      std::fprintf(file, "%s %lu\n", rows[row].name, count);
    }
  }
  std::fclose(file);
}

}  // namespace kvshim::simulator
