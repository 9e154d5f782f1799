// What a launch must know of its function: the layout of the parameters, what
// the kernel catalog says of it, and the words to look at, flattened so that the
// scan of a launch is a tight loop.
//
// Found by handle (CUfunction, or CUkernel cast to it) in some nanoseconds: a
// thread's own cache, then a table without locks. The first sight of a function
// asks the driver (1.7 us for each parameter) and the catalog.
#pragma once

#include <cuda.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "heuristics/kernel_catalog.h"
#include "preload/handle_table.h"

namespace kvshim::preload {

/// A run of `count` 8-byte words that follow one another in one parameter.
struct WordRun {
  std::uint16_t param = 0;
  std::uint16_t offset = 0;         // bytes from the parameter's start
  std::uint16_t count = 0;          // words
  std::uint16_t first_word = 0;     // index into FunctionInfo::words
  std::uint32_t buffer_offset = 0;  // bytes from the start of an `extra` buffer
};

/// Immutable once found; never freed (a launch may hold it while its module is
/// being unloaded elsewhere).
struct FunctionInfo {
  // What every launch looks at comes first, in one or two cache lines.
  bool layout_known = false;  // false: the driver has no query (before 12.4)
  bool own_guard = false;     // one of the shim's own kernels, seen in a captured graph
  /// Parameters that begin with a run of one word, most pointers: those are in
  /// `plain`, as many as fit, and not in `other_runs`.
  std::uint8_t plain_count = 0;
  std::array<std::uint8_t, 45> plain{};
  std::vector<WordRun> other_runs;

  std::string name;             // mangled; empty when the driver can't say
  CUmodule module = nullptr;    // owner of a CUfunction, null when unknown
  CUlibrary library = nullptr;  // owner of a CUkernel, null otherwise
  std::vector<heuristics::ParamLayout> params;
  std::shared_ptr<const heuristics::KernelKnowledge> knowledge;  // never null
  std::vector<heuristics::WordPlace> words;   // of the knowledge, checked against the layout
  std::vector<bool> word_is_read_only;        // parallel to `words`
  std::vector<WordRun> runs;                  // the same words, all
  const FunctionInfo* made_before = nullptr;  // all ever made: none is freed
};

/// Where kernels are classified; null (the start) means that nothing is known of
/// any kernel. Set once by the shim's composition, before the first pool.
void set_kernel_catalog(const heuristics::KernelCatalog* catalog) noexcept;

/// Takes over the words of `info->knowledge` that lie inside the parameters (a
/// profile's mistake must not make a launch read beyond its arguments), sorted,
/// and joins neighbours to runs. REQUIRES knowledge and params to be set.
void flatten_words(FunctionInfo* info);

/// Asks the driver and the catalog; adds to the table. Null when the driver
/// could not be asked (no context, a sticky error): then nothing is remembered.
/// Makes driver calls, holds no lock over them.
const FunctionInfo* look_at_function(const void* handle) noexcept;

/// Forgets what is known of functions whose handles may now be given to others.
/// Call before the real unload. Functions of another module are kept.
void forget_module(CUmodule module) noexcept;
/// Kernels of the library, and every CUfunction: a library's modules differ
/// from context to context and can't be listed.
void forget_library(CUlibrary library) noexcept;
/// Everything: a context and all its modules go.
void forget_functions() noexcept;
/// In a forked child, where one thread is left: the table may be locked for ever.
void abandon_functions_after_fork() noexcept;

namespace function_info_detail {

struct FunctionRecord {
  std::atomic<const FunctionInfo*> info{nullptr};  // null: not looked at, or forgotten
};

struct CacheSlot {
  const void* handle = nullptr;
  const FunctionRecord* record = nullptr;  // records live for ever, so no invalidation here
};
inline constexpr std::size_t kCacheSlots = 128;
extern thread_local constinit CacheSlot cache[kCacheSlots];

const FunctionInfo* find_beyond_cache(const void* handle, CacheSlot& slot) noexcept;

}  // namespace function_info_detail

/// The function's info, looked at now if it never was. Null as above, or for a
/// null handle. Any thread, no lock except at first sight.
inline const FunctionInfo* find_function(const void* handle) noexcept {
  namespace detail = function_info_detail;
  detail::CacheSlot& slot = detail::cache[hash_handle(handle) % detail::kCacheSlots];
  if (slot.handle == handle && handle != nullptr) [[likely]] {
    const FunctionInfo* info = slot.record->info.load(std::memory_order_acquire);
    if (info != nullptr) [[likely]]
      return info;
  }
  return detail::find_beyond_cache(handle, slot);
}

}  // namespace kvshim::preload
