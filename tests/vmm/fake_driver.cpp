#include "tests/vmm/fake_driver.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

namespace kvshim::vmm::testing {
namespace {

FakeDriver* current_driver = nullptr;

}  // namespace

FakeDriver& FakeDriver::self() { return *current_driver; }

FakeDriver::FakeDriver(std::uint64_t gpu_bytes) : gpu_bytes_(gpu_bytes) {
  if (current_driver != nullptr) std::abort();
  current_driver = this;
  make_current(context());
  file_ = memfd_create("fake_gpu", MFD_CLOEXEC);
  if (file_ < 0) std::abort();
  fill_api();
}

FakeDriver::~FakeDriver() {
  for (const auto& stream : streams_) {
    {
      std::lock_guard lock(stream->mutex);
      stream->ending = true;
      stream->held = false;
    }
    stream->changed.notify_all();
    if (stream->worker.joinable()) stream->worker.join();
  }
  for (const auto& [base, bytes] : reservations_) munmap(reinterpret_cast<void*>(base), bytes);
  for (const auto& [memory, bytes] : pinned_) munmap(memory, bytes);
  close(file_);
  make_current(nullptr);
  current_driver = nullptr;
}

void FakeDriver::fail(Call call, std::uint64_t nth, CUresult error, std::uint64_t times) {
  Failure& failure = failures_[index(call)];
  failure.error.store(error);
  const std::uint64_t from = calls(call) + nth;
  failure.to.store(from + times);
  failure.from.store(from);
}

void FakeDriver::fail_nothing() {
  for (Failure& failure : failures_) failure.from.store(0), failure.to.store(0);
}

CUresult FakeDriver::injected(Call call) {
  const std::uint64_t count = counts_[index(call)].fetch_add(1) + 1;
  const Failure& failure = failures_[index(call)];
  if (count >= failure.from.load() && count < failure.to.load()) {
    return static_cast<CUresult>(failure.error.load());
  }
  return CUDA_SUCCESS;
}

void FakeDriver::violation(std::string what) { violations_.push_back(std::move(what)); }

std::vector<std::string> FakeDriver::violations() {
  std::lock_guard lock(mutex_);
  return std::exchange(violations_, {});
}

void FakeDriver::take_gpu_memory(std::uint64_t bytes) {
  std::lock_guard lock(mutex_);
  others_ += bytes;
}

// --- views --------------------------------------------------------------------

std::uint64_t FakeDriver::used(bool host) const {
  std::uint64_t sum = 0;
  for (const auto& [id, handle] : handles_) {
    if (handle.host == host) sum += handle.bytes;
  }
  return sum;
}

std::uint64_t FakeDriver::device_bytes() const {
  std::lock_guard lock(mutex_);
  return used(false);
}
std::uint64_t FakeDriver::host_bytes() const {
  std::lock_guard lock(mutex_);
  return used(true);
}
std::uint64_t FakeDriver::host_mapped_bytes() const {
  std::lock_guard lock(mutex_);
  std::uint64_t sum = 0;
  for (const auto& [id, handle] : handles_) sum += handle.host ? handle.bytes * handle.mappings : 0;
  return sum;
}
std::uint64_t FakeDriver::gpu_free() const {
  std::lock_guard lock(mutex_);
  const std::uint64_t taken = used(false) + others_;
  return taken < gpu_bytes_ ? gpu_bytes_ - taken : 0;
}
std::size_t FakeDriver::live_handles() const {
  std::lock_guard lock(mutex_);
  return handles_.size();
}
std::size_t FakeDriver::reservations() const {
  std::lock_guard lock(mutex_);
  return reservations_.size();
}

std::size_t FakeDriver::pinned_bytes() const {
  std::lock_guard lock(mutex_);
  std::size_t sum = 0;
  for (const auto& [memory, bytes] : pinned_) sum += bytes;
  return sum;
}

std::map<std::uint64_t, FakeDriver::Mapping>::const_iterator FakeDriver::mapping_at(
    std::uint64_t address) const {
  auto it = mappings_.upper_bound(address);
  if (it == mappings_.begin()) return mappings_.end();
  --it;
  return address < it->first + it->second.bytes ? it : mappings_.end();
}

FakeDriver::Mapped FakeDriver::mapped(CUdeviceptr address) const {
  std::lock_guard lock(mutex_);
  const auto it = mapping_at(address);
  if (it == mappings_.end() || !it->second.accessible) return Mapped::kHole;
  return it->second.writable ? Mapped::kWritable : Mapped::kReadOnly;
}

bool FakeDriver::peek(CUdeviceptr address, std::uint64_t* word) const {
  std::lock_guard lock(mutex_);
  const auto it = mapping_at(address);
  if (it == mappings_.end() || !it->second.accessible) return false;
  const std::uint64_t at = handles_.at(it->second.handle).offset + (address - it->first);
  return pread(file_, word, sizeof *word, static_cast<off_t>(at)) == sizeof *word;
}

std::size_t FakeDriver::mapping_bytes(CUdeviceptr address) const {
  std::lock_guard lock(mutex_);
  const auto it = mapping_at(address);
  return it == mappings_.end() ? 0 : it->second.bytes;
}

// --- driver functions ---------------------------------------------------------

// What vmm/ never calls.
struct FakeDriver::Unused {
  template <class F>
  struct Function;
  template <class... Args>
  struct Function<CUresult (*)(Args...)> {
    static CUresult call(Args...) {
      std::lock_guard lock(self().mutex_);
      self().violation("a driver function was called that vmm/ has no use for");
      return CUDA_ERROR_NOT_SUPPORTED;
    }
  };
};

void FakeDriver::fill_api() {
#define KVSHIM_UNUSED(name) api_.name = Unused::Function<decltype(api_.name)>::call;
  KVSHIM_VMM_DRIVER_FUNCTIONS(KVSHIM_UNUSED)
#undef KVSHIM_UNUSED
  fill_memory_api();
  fill_work_api();
}

}  // namespace kvshim::vmm::testing
