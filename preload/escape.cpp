// Pools that are reached by ways the gate can't see, and unknown kernels.
#include "preload/escape.h"

#include <atomic>
#include <cstring>
#include <mutex>
#include <string>
#include <unordered_map>
#include <unordered_set>

#include "observe/log.h"
#include "preload/address_set.h"
#include "preload/gate.h"
#include "preload/runtime.h"
#include "preload/unknown_kernels.h"
#include "preload/word_search.h"

namespace kvshim::preload {
namespace {

// Addresses that were launch arguments, of any thread's launches that name a pool. Engines name
// some thousands: the first segment's 128 KiB. The bound is 1.5 to 5.6 million, by how they lie, in
// 43 MiB; beyond it every pool address counts as seen, which only makes more pools escape. Leaked:
// launches go on while static destructors run.
auto& seen_arguments = *new AddressSet<14, 5>;
std::atomic<bool> seen_overflow{false};

bool was_argument(std::uint64_t address) {
  return seen_overflow.load(std::memory_order_relaxed) || seen_arguments.contains(address);
}

void tell_overflow() noexcept {
  if (seen_overflow.exchange(true)) return;
  log::warning(
      "launches have named too many different pool addresses to remember: from now on a pool stays "
      "fully in GPU memory once anything that looks like an address in it is copied to the device");
}

// An unknown kernel may write from the address it names to the pool's end. PyTorch rounds large
// allocations up to this, and puts small tensors into what is left
// (kRoundLarge in c10/cuda/CUDACachingAllocator.cpp).
constexpr std::size_t kRoundedUp = std::size_t{2} << 20;

// Leaked: launches and the status thread go on while static destructors run.
std::mutex escaped_mutex;
auto& escaped = *new std::unordered_set<std::uint64_t>;  // pool ids

std::mutex unknown_mutex;
auto& unknown = *new std::unordered_map<std::string, UnknownKernel>;

}  // namespace

void remember_argument(std::uint64_t address) noexcept {
  if (!seen_arguments.insert(address)) tell_overflow();
}

void forget_arguments(CUdeviceptr address, std::size_t bytes) noexcept {
  seen_arguments.forget(address, bytes);
}

void scan_payload(StreamRef stream, const void* host, std::size_t bytes) {
  const std::uint64_t base = gate_detail::arena_base.load(std::memory_order_relaxed);
  const std::uint64_t size = gate_detail::arena_bytes.load(std::memory_order_acquire);
  if (size == 0 || host == nullptr) return;
  const std::size_t words = bytes / sizeof(std::uint64_t);
  for (std::size_t i = find_word_in_range(host, words, 0, base, size); i < words;
       i = find_word_in_range(host, words, i + 1, base, size)) {
    const std::size_t at = i * sizeof(std::uint64_t);
    std::uint64_t word = 0;
    std::memcpy(&word, static_cast<const unsigned char*>(host) + at, sizeof(word));
    const std::optional<PoolView> pool = find_pool(word);
    // Only exact addresses: small integers side by side must not count.
    if (!pool || (word != pool->base && !was_argument(word))) continue;
    escape(stream, word,
           "a copy of " + std::to_string(bytes) +
               " bytes to the device holds the address at byte " + std::to_string(at));
  }
}

CUresult escape(StreamRef stream, CUdeviceptr address, const std::string& how) {
  Runtime* runtime = Runtime::get();
  const std::optional<PoolView> pool = find_pool(address);
  if (runtime == nullptr || !pool) return CUDA_SUCCESS;
  DeviceRuntime* device = runtime->device(pool->device);
  if (device == nullptr) return CUDA_SUCCESS;
  vmm::DeviceMemory& memory = device->memory;
  bool first = false;
  {
    std::lock_guard lock(escaped_mutex);
    first = escaped.insert(pool->buffer_id).second;
    if (first) memory.pin(pool->base, pool->bytes);
  }
  // A second thread can't wait for the guard of the first, whose stream may wait
  // for anything: its own stream gets one, too, until all is there to stay.
  const Access whole{pool->base, pool->bytes, true};
  const auto nothing = [] { return CUDA_SUCCESS; };
  if (!first) {
    const bool there = memory.all_present(memory.granule_runs(pool->base, pool->bytes));
    return there ? CUDA_SUCCESS : run_work(stream, std::span(&whole, 1), nullptr, nothing);
  }
  char text[64];
  std::snprintf(text, sizeof(text),
                "pool %llu (0x%llx): ", static_cast<unsigned long long>(pool->buffer_id),
                static_cast<unsigned long long>(address));
  log::warning(text + how +
               "; its users can't be seen from now on, so it stays fully in GPU memory");
  return run_work(stream, std::span(&whole, 1), nullptr, nothing);
}

void note_unknown_kernel(const char* name, const std::string& words, std::size_t reach_bytes) {
  const bool alarming = reach_bytes >= kRoundedUp;
  bool first = false, tell = false;
  {
    std::lock_guard lock(unknown_mutex);
    UnknownKernel& kernel = unknown[name];
    first = kernel.launches++ == 0;
    tell = first || (alarming && !kernel.warned);
    kernel.warned = kernel.warned || alarming;
    kernel.bytes += reach_bytes;
    if (first) kernel.words = words;
  }
  if (!tell) return;
  const std::string text = std::string("unknown kernel ") + name + " names ";
  if (!alarming) {
    log::info(text + "the last " + std::to_string((reach_bytes + 1023) >> 10) + " KiB of a pool (" +
              words + "): made present for it. Mostly that is another tensor of the engine, in " +
              "what its allocator has left there");
    return;
  }
  log::warning(text + "a pool (" + words +
               "): " + std::to_string((reach_bytes + (1u << 20) - 1) >> 20) +
               " MiB are made present for it; a profile entry can narrow that");
}

std::vector<std::pair<std::string, UnknownKernel>> unknown_kernels() {
  std::lock_guard lock(unknown_mutex);
  return {unknown.begin(), unknown.end()};
}

}  // namespace kvshim::preload
