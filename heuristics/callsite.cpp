#include <dlfcn.h>

#include <cxxabi.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "heuristics/python_callsite.h"
#include "heuristics/recognizer.h"

#ifndef UNW_LOCAL_ONLY
#define UNW_LOCAL_ONLY
#endif
#include <libunwind.h>

namespace kvshim::heuristics {
namespace {

constexpr int kMaxNativeFrames = 48;
constexpr std::size_t kMaxCached = 8192;
constexpr std::size_t kMaxSymbol = 240;

/// "symbol@object" of a return address; "+0x1234@object" without a symbol.
std::string describe(std::uintptr_t return_address) {
  // Within the call, not behind it: the next function may begin there.
  const std::uintptr_t inside = return_address - 1;
  Dl_info info{};
  // NOLINTNEXTLINE(performance-no-int-to-ptr): an address by nature
  if (dladdr(reinterpret_cast<const void*>(inside), &info) == 0 || info.dli_fname == nullptr) {
    return "?";
  }
  const char* slash = std::strrchr(info.dli_fname, '/');
  const std::string object = slash != nullptr ? slash + 1 : info.dli_fname;
  if (info.dli_sname == nullptr) {
    char offset[32];
    std::snprintf(
        offset, sizeof offset, "+0x%zx",
        static_cast<std::size_t>(inside - reinterpret_cast<std::uintptr_t>(info.dli_fbase)));
    return offset + ("@" + object);
  }
  int status = 0;
  const std::unique_ptr<char, decltype(&std::free)> demangled(
      abi::__cxa_demangle(info.dli_sname, nullptr, nullptr, &status), &std::free);
  std::string symbol = status == 0 && demangled != nullptr ? demangled.get() : info.dli_sname;
  if (symbol.size() > kMaxSymbol) symbol.resize(kMaxSymbol);
  return symbol + "@" + object;
}

struct Cache {
  std::mutex mutex;
  std::unordered_map<std::uintptr_t, std::string> names;
};

std::string name_of(std::uintptr_t return_address) {
  static Cache* const cache = new Cache;  // leaked: threads may outlive statics
  {
    const std::lock_guard lock(cache->mutex);
    const auto known = cache->names.find(return_address);
    if (known != cache->names.end()) return known->second;
  }
  // dladdr takes the loader's lock: not under ours.
  std::string name = describe(return_address);
  const std::lock_guard lock(cache->mutex);
  // An address may name another function after an unload; forgetting bounds it.
  if (cache->names.size() >= kMaxCached) cache->names.clear();
  cache->names.emplace(return_address, name);
  return name;
}

std::vector<std::string> native_frames() {
  std::vector<std::string> frames;
  unw_context_t context;
  unw_cursor_t cursor;
  if (unw_getcontext(&context) != 0 || unw_init_local(&cursor, &context) != 0) return frames;
  while (unw_step(&cursor) > 0 && frames.size() < kMaxNativeFrames) {
    unw_word_t address = 0;
    if (unw_get_reg(&cursor, UNW_REG_IP, &address) != 0 || address == 0) break;
    std::string name = name_of(static_cast<std::uintptr_t>(address));
    // The shim's own frames say nothing about the caller.
    if (frames.empty() && name.find("@libkvshim") != std::string::npos) continue;
    frames.push_back(std::move(name));
  }
  return frames;
}

}  // namespace

CallSite capture_call_site() noexcept {
  CallSite site;
  try {
    site.native = native_frames();
    site.python = python_frames(nullptr);
  } catch (...) {
    // Out of memory: an allocation without call-site is judged by the rest.
  }
  return site;
}

}  // namespace kvshim::heuristics
