#include "preload/function_info.h"

#include <algorithm>
#include <limits>
#include <string_view>
#include <utility>

#include "preload/never_destroyed.h"
#include "preload/real_driver.h"
#include "vmm/guard_abi.h"

namespace kvshim::preload {

namespace function_info_detail {

thread_local constinit CacheSlot cache[kCacheSlots] = {};

}  // namespace function_info_detail

namespace {

using function_info_detail::FunctionRecord;
using heuristics::KernelKnowledge;
using heuristics::ParamLayout;
using heuristics::WordPlace;

std::atomic<const heuristics::KernelCatalog*> g_catalog{nullptr};

using FunctionTable = HandleTable<FunctionRecord>;
NeverDestroyed<FunctionTable>& all_functions() noexcept {
  static NeverDestroyed<FunctionTable> functions;
  return functions;
}
FunctionTable& table() noexcept { return *all_functions(); }

// All infos ever made, newest first. Nobody walks the list: it only says, to
// leak checkers too, that those forgotten are kept on purpose.
std::atomic<const FunctionInfo*> g_made{nullptr};

constexpr std::size_t kWordBytes = 8;

/// Nothing is known: every aligned word may be a pointer through which it writes.
std::shared_ptr<const KernelKnowledge> nothing_known(const std::vector<ParamLayout>& params) {
  auto knowledge = std::make_shared<KernelKnowledge>();
  for (std::size_t i = 0; i < params.size(); ++i) {
    for (std::size_t offset = 0; offset + kWordBytes <= params[i].size; offset += kWordBytes) {
      knowledge->words.push_back(
          {static_cast<std::uint16_t>(i), static_cast<std::uint16_t>(offset)});
    }
  }
  knowledge->word_is_read_only.assign(knowledge->words.size(), false);
  knowledge->reason = "no profile is loaded";
  return knowledge;
}

/// Reads a layout through `query(index, &offset, &size)`. The driver answers
/// INVALID_VALUE for the first index that is not a parameter.
template <class Query>
CUresult read_layout(Query&& query, std::vector<ParamLayout>* params) {
  // 4 KiB of parameters until CUDA 12.0, 32 KiB since; a byte is the smallest.
  constexpr std::size_t kMostParams = 32764;
  for (std::size_t i = 0; i < kMostParams; ++i) {
    ParamLayout param;
    const CUresult result = query(i, &param.offset, &param.size);
    if (result == CUDA_ERROR_INVALID_VALUE) return CUDA_SUCCESS;
    if (result != CUDA_SUCCESS) return result;
    params->push_back(param);
  }
  return CUDA_ERROR_INVALID_VALUE;
}

/// Neither query takes the other's handles, though cuLaunchKernel takes both.
CUresult describe(const void* handle, FunctionInfo* info) {
  const RealDriver& driver = real();
  auto* const function = static_cast<CUfunction>(const_cast<void*>(handle));
  auto* const kernel = static_cast<CUkernel>(const_cast<void*>(handle));
  if (driver.cuFuncGetParamInfo == nullptr) return CUDA_SUCCESS;  // layout_known stays false
  CUresult result = read_layout(
      [&](std::size_t i, std::size_t* offset, std::size_t* size) {
        return driver.cuFuncGetParamInfo(function, i, offset, size);
      },
      &info->params);
  const char* name = nullptr;
  if (result == CUDA_SUCCESS) {
    if (driver.cuFuncGetName != nullptr) driver.cuFuncGetName(&name, function);
    if (driver.cuFuncGetModule != nullptr) driver.cuFuncGetModule(&info->module, function);
  } else if (result == CUDA_ERROR_INVALID_HANDLE && driver.cuKernelGetParamInfo != nullptr) {
    info->params.clear();
    result = read_layout(
        [&](std::size_t i, std::size_t* offset, std::size_t* size) {
          return driver.cuKernelGetParamInfo(kernel, i, offset, size);
        },
        &info->params);
    if (result == CUDA_SUCCESS) {
      if (driver.cuKernelGetName != nullptr) driver.cuKernelGetName(&name, kernel);
      if (driver.cuKernelGetLibrary != nullptr) driver.cuKernelGetLibrary(&info->library, kernel);
    }
  }
  if (result != CUDA_SUCCESS) return result;
  info->layout_known = true;
  if (name != nullptr) info->name = name;
  return CUDA_SUCCESS;
}

bool is_own_kernel(std::string_view name) {
  return name == vmm::kLinearGuardName || name == vmm::kFixedGuardName || name == vmm::kScanName ||
         name == vmm::kClearName || name == vmm::kMarkName || name == vmm::kTakeName;
}

template <class Matches>
void forget_if(Matches&& matches) noexcept {
  table().for_each([&](const void*, FunctionRecord& record) {
    const FunctionInfo* info = record.info.load(std::memory_order_acquire);
    if (info != nullptr && matches(*info)) record.info.store(nullptr, std::memory_order_release);
  });
}

}  // namespace

void flatten_words(FunctionInfo* info) {
  const KernelKnowledge& knowledge = *info->knowledge;
  std::vector<std::pair<WordPlace, bool>> words;
  words.reserve(knowledge.words.size());
  for (std::size_t i = 0; i < knowledge.words.size(); ++i) {
    const WordPlace place = knowledge.words[i];
    if (place.param >= info->params.size()) continue;
    if (place.offset + kWordBytes > info->params[place.param].size) continue;
    words.emplace_back(place,
                       i < knowledge.word_is_read_only.size() && knowledge.word_is_read_only[i]);
  }
  std::stable_sort(words.begin(), words.end(), [](const auto& a, const auto& b) {
    return std::pair(a.first.param, a.first.offset) < std::pair(b.first.param, b.first.offset);
  });
  constexpr std::size_t kMostWords = std::numeric_limits<std::uint16_t>::max();
  if (words.size() > kMostWords) words.resize(kMostWords);  // parameters are at most 32 KiB
  for (const auto& [place, read_only] : words) {
    if (!info->runs.empty()) {
      WordRun& last = info->runs.back();
      if (last.param == place.param && last.offset + last.count * kWordBytes == place.offset) {
        ++last.count;
        info->words.push_back(place);
        info->word_is_read_only.push_back(read_only);
        continue;
      }
    }
    info->runs.push_back(
        {place.param, place.offset, 1, static_cast<std::uint16_t>(info->words.size()),
         static_cast<std::uint32_t>(info->params[place.param].offset + place.offset)});
    info->words.push_back(place);
    info->word_is_read_only.push_back(read_only);
  }
  for (const WordRun& run : info->runs) {
    const bool is_plain = run.offset == 0 && run.count == 1 &&
                          run.param <= std::numeric_limits<std::uint8_t>::max() &&
                          info->plain_count < info->plain.size();
    if (is_plain) {
      info->plain[info->plain_count++] = static_cast<std::uint8_t>(run.param);
    } else {
      info->other_runs.push_back(run);
    }
  }
}

void set_kernel_catalog(const heuristics::KernelCatalog* catalog) noexcept {
  g_catalog.store(catalog, std::memory_order_release);
}

const FunctionInfo* look_at_function(const void* handle) noexcept {
  if (handle == nullptr) return nullptr;
  try {
    auto info = std::make_unique<FunctionInfo>();
    if (describe(handle, info.get()) != CUDA_SUCCESS) return nullptr;
    info->own_guard = is_own_kernel(info->name);
    if (const auto* catalog = g_catalog.load(std::memory_order_acquire)) {
      info->knowledge = catalog->classify(info->name, info->params);
    }
    if (info->knowledge == nullptr) info->knowledge = nothing_known(info->params);
    flatten_words(info.get());
    FunctionRecord* const record = table().find_or_add(handle);
    if (record == nullptr) return nullptr;
    const FunctionInfo* expected = nullptr;
    FunctionInfo* const made = info.release();
    made->made_before = g_made.exchange(made, std::memory_order_acq_rel);
    const bool first =
        record->info.compare_exchange_strong(expected, made, std::memory_order_acq_rel);
    return first ? made : expected;  // another thread may have looked at the same time
  } catch (...) {
    return nullptr;  // no memory: treated like a function that can't be asked about
  }
}

void forget_module(CUmodule module) noexcept {
  forget_if([module](const FunctionInfo& info) {
    return info.library == nullptr && (info.module == module || info.module == nullptr);
  });
}

void forget_library(CUlibrary library) noexcept {
  forget_if([library](const FunctionInfo& info) {
    return info.library == library || info.library == nullptr;
  });
}

void forget_functions() noexcept {
  forget_if([](const FunctionInfo&) { return true; });
}

void abandon_functions_after_fork() noexcept {
  all_functions().start_anew();
  for (auto& slot : function_info_detail::cache) slot = {};
}

namespace function_info_detail {

const FunctionInfo* find_beyond_cache(const void* handle, CacheSlot& slot) noexcept {
  if (handle == nullptr) return nullptr;
  const FunctionRecord* record = table().find(handle);
  // Read once: another thread may forget it at any time (an unload).
  const FunctionInfo* info =
      record != nullptr ? record->info.load(std::memory_order_acquire) : nullptr;
  if (info == nullptr) {
    info = look_at_function(handle);
    if (info == nullptr) return nullptr;
    record = table().find(handle);
  }
  slot = {handle, record};
  return info;
}

}  // namespace function_info_detail

}  // namespace kvshim::preload
