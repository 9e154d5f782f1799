#include "tests/vmm/fake_driver.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "tests/vmm/host_kernels.h"

namespace kvshim::vmm::testing {
namespace {

FakeDriver* current_driver = nullptr;
thread_local std::vector<CUcontext> contexts;
thread_local CUstreamCaptureMode capture_mode = CU_STREAM_CAPTURE_MODE_GLOBAL;

void* inaccessible(void* at, std::size_t bytes, int flags) {
  return mmap(at, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | flags, -1, 0);
}

// The releasing thread reads, with the gate open, what the engine may be writing,
// and throws the result away if it did: no data race on a GPU.
#if defined(__SANITIZE_THREAD__)
extern "C" void AnnotateIgnoreReadsBegin(const char* file, int line);
extern "C" void AnnotateIgnoreReadsEnd(const char* file, int line);
struct UncheckedReads {
  UncheckedReads() { AnnotateIgnoreReadsBegin(__FILE__, __LINE__); }
  ~UncheckedReads() { AnnotateIgnoreReadsEnd(__FILE__, __LINE__); }
};
#else
struct UncheckedReads {
  UncheckedReads() {}
};
#endif

std::string hex(std::uint64_t value) {
  char text[32];
  std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(value));
  return text;
}

}  // namespace

FakeDriver& FakeDriver::self() { return *current_driver; }

FakeDriver::FakeDriver(std::uint64_t gpu_bytes) : gpu_bytes_(gpu_bytes) {
  if (current_driver != nullptr) std::abort();
  current_driver = this;
  contexts.clear();
  contexts.push_back(context());
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
  contexts.clear();
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

// --- work ---------------------------------------------------------------------

CUstream FakeDriver::make_stream() {
  auto made = std::make_unique<Stream>();
  Stream* stream = made.get();
  stream->worker = std::thread([this, stream] { run(*stream); });
  std::lock_guard lock(mutex_);
  streams_.push_back(std::move(made));
  return reinterpret_cast<CUstream>(stream);
}

void FakeDriver::run(Stream& stream) {
  std::unique_lock lock(stream.mutex);
  for (;;) {
    stream.changed.wait(lock, [&] { return stream.ending || (!stream.held && !stream.queue.empty()); });
    if (stream.queue.empty() && stream.ending) return;
    if (stream.queue.empty()) continue;
    const std::function<void()> work = stream.queue.front().work;
    lock.unlock();
    work();
    lock.lock();
    stream.queue.pop_front();
    stream.changed.notify_all();
  }
}

void FakeDriver::enqueue(CUstream handle, std::vector<Range> ranges, std::function<void()> work,
                         bool guard) {
  auto& stream = *reinterpret_cast<Stream*>(handle);
  {
    std::lock_guard lock(stream.mutex);
    stream.queue.push_back({std::move(ranges), std::move(work), guard});
  }
  stream.changed.notify_all();
}

void FakeDriver::hold(CUstream handle, bool held) {
  auto& stream = *reinterpret_cast<Stream*>(handle);
  {
    std::lock_guard lock(stream.mutex);
    stream.held = held;
  }
  stream.changed.notify_all();
}

bool FakeDriver::drain(CUstream handle) {
  auto& stream = *reinterpret_cast<Stream*>(handle);
  std::unique_lock lock(stream.mutex);
  return stream.changed.wait_for(lock, std::chrono::seconds(10),
                                 [&] { return stream.queue.empty(); });
}

// I2, I4: nothing may lose its mapping while work that touches it is unfinished.
void FakeDriver::check_no_work(std::uint64_t begin, std::uint64_t end, const char* what) {
  for (const auto& stream : streams_) {
    std::lock_guard lock(stream->mutex);
    for (const Operation& operation : stream->queue) {
      if (operation.guard) break;
      for (const Range& range : operation.ranges) {
        if (range.meets(begin, end)) {
          violation(std::string(what) + " of " + hex(begin) + " under unfinished work");
          return;
        }
      }
    }
  }
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

// --- memory -------------------------------------------------------------------

// The last reference is gone: the pages go back, so that the next handle is zero.
void FakeDriver::forget(std::map<CUmemGenericAllocationHandle, Handle>::iterator handle) {
  fallocate(file_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
            static_cast<off_t>(handle->second.offset), static_cast<off_t>(handle->second.bytes));
  free_file_.emplace(handle->second.bytes, handle->second.offset);
  handles_.erase(handle);
}

CUresult FakeDriver::unmap(std::uint64_t begin, std::uint64_t bytes) {
  const std::uint64_t end = begin + bytes;
  const auto first = mapping_at(begin);
  if (first != mappings_.end() && first->first != begin) {
    violation("unmap of part of a mapping at " + hex(begin));
    return CUDA_ERROR_INVALID_VALUE;
  }
  std::uint64_t covered = 0;
  for (auto it = mappings_.lower_bound(begin); it != mappings_.end() && it->first < end; ++it) {
    if (it->first + it->second.bytes > end) {
      violation("unmap of part of a mapping at " + hex(it->first));
      return CUDA_ERROR_INVALID_VALUE;
    }
    covered += it->second.bytes;
  }
  // The driver takes it; the mechanism must know what is mapped.
  if (covered != bytes) violation("unmap over a hole at " + hex(begin));
  check_no_work(begin, end, "unmap");
  for (auto it = mappings_.lower_bound(begin); it != mappings_.end() && it->first < end;) {
    const auto handle = handles_.find(it->second.handle);
    --handle->second.mappings;
    if (handle->second.released && handle->second.mappings == 0) forget(handle);
    it = mappings_.erase(it);
  }
  inaccessible(reinterpret_cast<void*>(begin), bytes, MAP_FIXED);
  return CUDA_SUCCESS;
}

struct FakeDriver::Functions {
#define KVSHIM_INJECT(name) \
  if (const CUresult error = self().injected(Call::name); error != CUDA_SUCCESS) return error

  static CUresult address_reserve(CUdeviceptr* out, size_t bytes, size_t alignment,
                                  [[maybe_unused]] CUdeviceptr hint, unsigned long long) {
    KVSHIM_INJECT(cuMemAddressReserve);
    FakeDriver& driver = self();
    const std::size_t align = std::max<std::size_t>(alignment, kGranuleBytes);
    void* at = MAP_FAILED;
#ifndef KVSHIM_SANITIZED  // the sanitizers' own memory lies at such addresses
    if (hint != 0) {
      at = inaccessible(reinterpret_cast<void*>(hint), bytes, MAP_FIXED_NOREPLACE);
    }
#endif
    auto base = reinterpret_cast<std::uint64_t>(at);
    if (at == MAP_FAILED) {
      at = inaccessible(nullptr, bytes + align, 0);
      if (at == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
      const auto got = reinterpret_cast<std::uint64_t>(at);
      base = (got + align - 1) & ~(align - 1);
      if (base != got) munmap(at, base - got);
      if (base + bytes != got + bytes + align) {
        munmap(reinterpret_cast<void*>(base + bytes), got + align - base);
      }
    }
    std::lock_guard lock(driver.mutex_);
    driver.reservations_[base] = bytes;
    *out = base;
    return CUDA_SUCCESS;
  }

  static CUresult address_free(CUdeviceptr base, size_t bytes) {
    KVSHIM_INJECT(cuMemAddressFree);
    FakeDriver& driver = self();
    std::lock_guard lock(driver.mutex_);
    const auto it = driver.reservations_.find(base);
    const auto next = driver.mappings_.lower_bound(base);
    if (it == driver.reservations_.end() || it->second != bytes ||
        (next != driver.mappings_.end() && next->first < base + bytes)) {
      driver.violation("address free of " + hex(base) + ": no whole, unmapped reservation");
      return CUDA_ERROR_INVALID_VALUE;
    }
    driver.reservations_.erase(it);
    munmap(reinterpret_cast<void*>(base), bytes);
    return CUDA_SUCCESS;
  }

  static CUresult create(CUmemGenericAllocationHandle* out, size_t bytes,
                         const CUmemAllocationProp* properties, unsigned long long) {
    KVSHIM_INJECT(cuMemCreate);
    FakeDriver& driver = self();
    const bool host = properties->location.type != CU_MEM_LOCATION_TYPE_DEVICE;
    if (host && driver.host_create_microseconds.load() != 0) {
      std::this_thread::sleep_for(
          std::chrono::microseconds(driver.host_create_microseconds.load()));
    }
    std::lock_guard lock(driver.mutex_);
    if (bytes == 0 || bytes % kGranuleBytes != 0) return CUDA_ERROR_INVALID_VALUE;
    if (!host && driver.used(false) + driver.others_ + bytes > driver.gpu_bytes_) {
      return CUDA_ERROR_OUT_OF_MEMORY;
    }
    Handle handle{0, bytes, host, false, 0};
    if (const auto it = driver.free_file_.find(bytes); it != driver.free_file_.end()) {
      handle.offset = it->second;
      driver.free_file_.erase(it);
    } else {
      handle.offset = driver.file_end_;
      driver.file_end_ += bytes;
      if (ftruncate(driver.file_, static_cast<off_t>(driver.file_end_)) != 0) std::abort();
    }
    *out = driver.next_handle_++;
    driver.handles_[*out] = handle;
    return CUDA_SUCCESS;
  }

  static CUresult release(CUmemGenericAllocationHandle id) {
    KVSHIM_INJECT(cuMemRelease);
    FakeDriver& driver = self();
    std::lock_guard lock(driver.mutex_);
    const auto it = driver.handles_.find(id);
    if (it == driver.handles_.end() || it->second.released) {
      driver.violation("release of a handle that does not live: " + std::to_string(id));
      return CUDA_ERROR_INVALID_VALUE;
    }
    it->second.released = true;
    if (it->second.mappings == 0) driver.forget(it);
    return CUDA_SUCCESS;
  }

  static CUresult map(CUdeviceptr address, size_t bytes, size_t offset,
                      CUmemGenericAllocationHandle id, unsigned long long) {
    KVSHIM_INJECT(cuMemMap);
    FakeDriver& driver = self();
    std::lock_guard lock(driver.mutex_);
    const auto handle = driver.handles_.find(id);
    if (handle == driver.handles_.end() || handle->second.released || offset != 0 ||
        handle->second.bytes != bytes) {
      driver.violation("map at " + hex(address) + ": no such handle, or not all of it");
      return CUDA_ERROR_INVALID_VALUE;
    }
    auto reservation = driver.reservations_.upper_bound(address);
    const bool inside =
        reservation != driver.reservations_.begin() &&
        (--reservation, address + bytes <= reservation->first + reservation->second);
    const auto next = driver.mappings_.lower_bound(address);
    const bool taken = driver.mapping_at(address) != driver.mappings_.end() ||
                       (next != driver.mappings_.end() && next->first < address + bytes);
    if (!inside || taken) {
      driver.violation("map at " + hex(address) + (taken ? ": already mapped" : ": not reserved"));
      return CUDA_ERROR_INVALID_VALUE;
    }
    if (mmap(reinterpret_cast<void*>(address), bytes, PROT_NONE, MAP_SHARED | MAP_FIXED,
             driver.file_, static_cast<off_t>(handle->second.offset)) == MAP_FAILED) {
      std::abort();
    }
    ++handle->second.mappings;
    driver.mappings_[address] = {bytes, id, false, false};
    return CUDA_SUCCESS;
  }

  static CUresult unmap_range(CUdeviceptr address, size_t bytes) {
    KVSHIM_INJECT(cuMemUnmap);
    FakeDriver& driver = self();
    std::lock_guard lock(driver.mutex_);
    return driver.unmap(address, bytes);
  }

  static CUresult set_access(CUdeviceptr address, size_t bytes, const CUmemAccessDesc* access,
                             size_t count) {
    KVSHIM_INJECT(cuMemSetAccess);
    FakeDriver& driver = self();
    std::lock_guard lock(driver.mutex_);
    const bool writable = access[0].flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    if (count != 1 || access[0].location.type != CU_MEM_LOCATION_TYPE_DEVICE) {
      driver.violation("set access at " + hex(address) + ": not for the device");
      return CUDA_ERROR_INVALID_VALUE;
    }
    for (std::uint64_t at = address; at < address + bytes;) {
      const auto it = driver.mappings_.find(at);
      if (it == driver.mappings_.end()) {
        driver.violation("set access over a hole at " + hex(at));
        return CUDA_ERROR_INVALID_VALUE;
      }
      it->second.accessible = true;
      it->second.writable = writable;
      at += it->second.bytes;
    }
    mprotect(reinterpret_cast<void*>(address), bytes, writable ? PROT_READ | PROT_WRITE : PROT_READ);
    return CUDA_SUCCESS;
  }

  static CUresult granularity(size_t* bytes, const CUmemAllocationProp*,
                              CUmemAllocationGranularity_flags) {
    KVSHIM_INJECT(cuMemGetAllocationGranularity);
    *bytes = kGranuleBytes;
    return CUDA_SUCCESS;
  }

  static CUresult get_info(size_t* free, size_t* total) {
    KVSHIM_INJECT(cuMemGetInfo_v2);
    *free = self().gpu_free();
    *total = self().gpu_bytes_;
    return CUDA_SUCCESS;
  }

  static CUresult host_alloc(void** memory, size_t bytes, unsigned) {
    KVSHIM_INJECT(cuMemHostAlloc);
    FakeDriver& driver = self();
    void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
    std::lock_guard lock(driver.mutex_);
    driver.pinned_[at] = bytes;
    *memory = at;
    return CUDA_SUCCESS;
  }

  static CUresult free_host(void* memory) {
    KVSHIM_INJECT(cuMemFreeHost);
    FakeDriver& driver = self();
    std::lock_guard lock(driver.mutex_);
    const auto it = driver.pinned_.find(memory);
    if (it == driver.pinned_.end()) return CUDA_ERROR_INVALID_VALUE;
    munmap(memory, it->second);
    driver.pinned_.erase(it);
    return CUDA_SUCCESS;
  }

  static CUresult device_pointer(CUdeviceptr* out, void* memory, unsigned) {
    KVSHIM_INJECT(cuMemHostGetDevicePointer_v2);
    *out = reinterpret_cast<CUdeviceptr>(memory);
    return CUDA_SUCCESS;
  }

  // As the driver, these look at the mappings when they are called.
  static bool hole(std::uint64_t begin, std::uint64_t bytes) {
    FakeDriver& driver = self();
    std::lock_guard lock(driver.mutex_);
    for (std::uint64_t at = begin; at < begin + bytes;) {
      const auto it = driver.mapping_at(at);
      if (it == driver.mappings_.end() || !it->second.accessible) return true;
      at = it->first + it->second.bytes;
    }
    return false;
  }

  static CUresult memset_async(CUdeviceptr address, unsigned char value, size_t bytes,
                               CUstream stream) {
    KVSHIM_INJECT(cuMemsetD8Async);
    if (hole(address, bytes)) return CUDA_ERROR_INVALID_VALUE;
    self().enqueue(stream, {{address, address + bytes}}, [=] {
      std::memset(reinterpret_cast<void*>(address), value, bytes);
    });
    return CUDA_SUCCESS;
  }

  static CUresult copy_async(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
    KVSHIM_INJECT(cuMemcpyDtoDAsync_v2);
    if (hole(to, bytes) || hole(from, bytes)) return CUDA_ERROR_INVALID_VALUE;
    self().enqueue(stream, {{to, to + bytes}, {from, from + bytes}}, [=] {
      const UncheckedReads unchecked;
      std::memcpy(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), bytes);
    });
    return CUDA_SUCCESS;
  }

  static CUresult stream_create(CUstream* stream, unsigned, int) {
    KVSHIM_INJECT(cuStreamCreateWithPriority);
    *stream = self().make_stream();
    return CUDA_SUCCESS;
  }

  static CUresult stream_destroy(CUstream) {
    KVSHIM_INJECT(cuStreamDestroy_v2);
    return CUDA_SUCCESS;  // its thread ends with the driver
  }

  static CUresult stream_query(CUstream handle) {
    KVSHIM_INJECT(cuStreamQuery);
    auto& stream = *reinterpret_cast<Stream*>(handle);
    std::lock_guard lock(stream.mutex);
    return stream.queue.empty() ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
  }

  static CUresult is_capturing(CUstream, CUstreamCaptureStatus* status) {
    *status = CU_STREAM_CAPTURE_STATUS_NONE;
    return CUDA_SUCCESS;
  }

  static CUresult library_load(CUlibrary* library, const void*, CUjit_option*, void**, unsigned,
                               CUlibraryOption*, void**, unsigned) {
    KVSHIM_INJECT(cuLibraryLoadData);
    *library = reinterpret_cast<CUlibrary>(&self());
    return CUDA_SUCCESS;
  }
  static CUresult library_unload(CUlibrary) {
    KVSHIM_INJECT(cuLibraryUnload);
    return CUDA_SUCCESS;
  }
  static CUresult library_kernel(CUkernel* kernel, CUlibrary, const char* name) {
    KVSHIM_INJECT(cuLibraryGetKernel);
    *kernel = reinterpret_cast<CUkernel>(const_cast<HostKernel*>(find_host_kernel(name)));
    return *kernel != nullptr ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
  }
  static CUresult launch(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned, unsigned,
                         unsigned, unsigned, unsigned, CUstream stream, void** params, void**) {
    KVSHIM_INJECT(cuLaunchKernel);
    const auto& kernel = *reinterpret_cast<const HostKernel*>(function);
    HostLaunch launched = kernel.prepare(params[0]);
    self().enqueue(stream, std::move(launched.ranges),
                   [run = std::move(launched.run), grid_x, grid_y, guard = launched.guard] {
                     if (guard) return run(grid_x, grid_y);
                     const UncheckedReads unchecked;
                     run(grid_x, grid_y);
                   },
                   launched.guard);
    return CUDA_SUCCESS;
  }

  static CUresult get_current(CUcontext* out) {
    KVSHIM_INJECT(cuCtxGetCurrent);
    *out = contexts.empty() ? nullptr : contexts.back();
    return CUDA_SUCCESS;
  }
  static CUresult set_current(CUcontext value) {
    KVSHIM_INJECT(cuCtxSetCurrent);
    if (!contexts.empty()) contexts.pop_back();
    contexts.push_back(value);
    return CUDA_SUCCESS;
  }
  static CUresult push_current(CUcontext value) {
    KVSHIM_INJECT(cuCtxPushCurrent_v2);
    contexts.push_back(value);
    return CUDA_SUCCESS;
  }
  static CUresult pop_current(CUcontext* out) {
    KVSHIM_INJECT(cuCtxPopCurrent_v2);
    *out = contexts.back();
    contexts.pop_back();
    return CUDA_SUCCESS;
  }
  static CUresult exchange_mode(CUstreamCaptureMode* mode) {
    KVSHIM_INJECT(cuThreadExchangeStreamCaptureMode);
    std::swap(*mode, capture_mode);
    return CUDA_SUCCESS;
  }

  // Never called by vmm/.
  template <class F>
  struct Unused;
  template <class... Args>
  struct Unused<CUresult (*)(Args...)> {
    static CUresult call(Args...) {
      std::lock_guard lock(self().mutex_);
      self().violation("a driver function was called that vmm/ has no use for");
      return CUDA_ERROR_NOT_SUPPORTED;
    }
  };
};

void FakeDriver::fill_api() {
#define KVSHIM_UNUSED(name) api_.name = Functions::Unused<decltype(api_.name)>::call;
  KVSHIM_VMM_DRIVER_FUNCTIONS(KVSHIM_UNUSED)
#undef KVSHIM_UNUSED
  api_.cuMemAddressReserve = Functions::address_reserve;
  api_.cuMemAddressFree = Functions::address_free;
  api_.cuMemCreate = Functions::create;
  api_.cuMemRelease = Functions::release;
  api_.cuMemMap = Functions::map;
  api_.cuMemUnmap = Functions::unmap_range;
  api_.cuMemSetAccess = Functions::set_access;
  api_.cuMemGetAllocationGranularity = Functions::granularity;
  api_.cuMemGetInfo_v2 = Functions::get_info;
  api_.cuMemHostAlloc = Functions::host_alloc;
  api_.cuMemFreeHost = Functions::free_host;
  api_.cuMemHostGetDevicePointer_v2 = Functions::device_pointer;
  api_.cuMemsetD8Async = Functions::memset_async;
  api_.cuMemcpyDtoDAsync_v2 = Functions::copy_async;
  api_.cuStreamCreateWithPriority = Functions::stream_create;
  api_.cuStreamDestroy_v2 = Functions::stream_destroy;
  api_.cuStreamQuery = Functions::stream_query;
  api_.cuStreamIsCapturing = Functions::is_capturing;
  api_.cuLibraryLoadData = Functions::library_load;
  api_.cuLibraryUnload = Functions::library_unload;
  api_.cuLibraryGetKernel = Functions::library_kernel;
  api_.cuLaunchKernel = Functions::launch;
  api_.cuCtxGetCurrent = Functions::get_current;
  api_.cuCtxSetCurrent = Functions::set_current;
  api_.cuCtxPushCurrent_v2 = Functions::push_current;
  api_.cuCtxPopCurrent_v2 = Functions::pop_current;
  api_.cuThreadExchangeStreamCaptureMode = Functions::exchange_mode;
}

}  // namespace kvshim::vmm::testing
