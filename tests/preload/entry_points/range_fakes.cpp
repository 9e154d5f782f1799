#include "range_fakes.h"

#include <type_traits>

#include "observe/log.h"
#include "preload/peer_access.h"

namespace kvshim::preload {

namespace gate_detail {
std::atomic<std::uint64_t> arena_base{0};
std::atomic<std::uint64_t> arena_bytes{0};
}  // namespace gate_detail

namespace fakes {
namespace {

int submissions = 0;
int retries = 0;

template <class T>
std::uint64_t word_of(const T& value) {
  if constexpr (std::is_pointer_v<T>) {
    return reinterpret_cast<std::uintptr_t>(value);
  } else if constexpr (std::is_integral_v<T> || std::is_enum_v<T>) {
    return static_cast<std::uint64_t>(value);
  } else {
    return 0;
  }
}

void note_description(const CUDA_MEMCPY2D* copy) { notes().copies_2d.push_back(*copy); }
void note_description(const CUDA_MEMCPY3D* copy) { notes().copies_3d.push_back(*copy); }
template <class T>
void note_description(const T&) {}

enum Row {
#define KVSHIM_ENTRY_POINT(name, role, area, note) k_##name,
#define KVSHIM_CALLED(name) k_##name,
#include "preload/called_only.def"
#include "preload/entry_points.def"
#undef KVSHIM_CALLED
#undef KVSHIM_ENTRY_POINT
};

const char* const kNames[] = {
#define KVSHIM_ENTRY_POINT(name, role, area, note) #name,
#define KVSHIM_CALLED(name) #name,
#include "preload/called_only.def"
#include "preload/entry_points.def"
#undef KVSHIM_CALLED
#undef KVSHIM_ENTRY_POINT
};

template <class F>
struct Recorder;
template <class R, class... Args>
struct Recorder<R (*)(Args...)> {
  template <Row row>
  static R call(Args... arguments) {
    (note_description(arguments), ...);
    notes().calls.push_back({kNames[row], {word_of(arguments)...}, submissions > 0, retries > 0});
    return notes().driver_result;
  }
};

CUresult pointer_attribute(void* data, CUpointer_attribute attribute, CUdeviceptr address) {
  notes().calls.push_back({"cuPointerGetAttribute",
                           {word_of(data), word_of(attribute), address},
                           submissions > 0,
                           retries > 0});
  bool known = address >= kOther && address < kOther + (std::uint64_t{1} << 30);
  for (const std::uint64_t other : notes().device_memory) known |= other == address;
  bool host = false;
  for (const std::uint64_t other : notes().host_memory) host |= other == address;
  if (!known && !host) return CUDA_ERROR_INVALID_VALUE;
  *static_cast<unsigned int*>(data) = host ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE;
  return CUDA_SUCCESS;
}

CUresult current_device(CUdevice* device) {
  *device = 0;
  return CUDA_SUCCESS;
}

RealDriver recording_driver() {
  RealDriver driver;
#define KVSHIM_ENTRY_POINT(name, role, area, note) \
  driver.name = &Recorder<decltype(driver.name)>::call<k_##name>;
#define KVSHIM_CALLED(name) driver.name = &Recorder<decltype(driver.name)>::call<k_##name>;
#include "preload/called_only.def"
#include "preload/entry_points.def"
#undef KVSHIM_CALLED
#undef KVSHIM_ENTRY_POINT
  driver.cuPointerGetAttribute = &pointer_attribute;
  driver.cuCtxGetDevice = &current_device;
  return driver;
}

PoolView pool() {
  PoolView view;
  view.base = kPool;
  view.bytes = kPoolBytes;
  view.requested_bytes = kToldBytes;
  view.device = 0;
  view.context = kContext;
  view.buffer_id = 77;
  return view;
}

class Inside {
 public:
  explicit Inside(int* depth) : depth_(depth) { ++*depth_; }
  ~Inside() { --*depth_; }
  Inside(const Inside&) = delete;
  Inside& operator=(const Inside&) = delete;

 private:
  int* depth_;
};

}  // namespace

Notes& notes() {
  static Notes all;
  return all;
}

void reset(bool pools) {
  notes() = {};
  gate_detail::arena_base = pools ? kArena : 0;
  gate_detail::arena_bytes = pools ? kArenaBytes : 0;
  static const RealDriver driver = recording_driver();
  real_driver_detail::found = &driver;
}

}  // namespace fakes

namespace real_driver_detail {
std::atomic<const RealDriver*> found{nullptr};
const RealDriver& find() noexcept {
  fakes::reset();
  return *found;
}
}  // namespace real_driver_detail

std::optional<PoolView> find_pool(CUdeviceptr address) noexcept {
  if (address - fakes::kPool < fakes::kPoolBytes) return fakes::pool();
  return std::nullopt;
}

std::vector<PoolView> pools_in(CUdeviceptr address, std::size_t bytes) {
  if (address < fakes::kPool + fakes::kPoolBytes && address + bytes > fakes::kPool) {
    return {fakes::pool()};
  }
  return {};
}

CUresult run_work(StreamRef stream, std::span<const Access> accesses, const vmm::LinearWrite*,
                  SubmitRef submit, const vmm::TableRead*) {
  fakes::notes().work.push_back(
      {stream.handle, stream.flavor, {accesses.begin(), accesses.end()}, false, false});
  const fakes::Inside inside(&fakes::submissions);
  return submit();
}

CUresult run_fill(StreamRef stream, CUdeviceptr address, std::size_t bytes, bool zero,
                  SubmitRef submit) {
  fakes::notes().work.push_back(
      {stream.handle, stream.flavor, {{address, bytes, true}}, true, zero});
  if (zero && fakes::notes().drop_zero_fills) return CUDA_SUCCESS;
  const fakes::Inside inside(&fakes::submissions);
  return submit();
}

CUresult retry_over_holes(SubmitRef call, WhileAbsent) {
  const fakes::Inside inside(&fakes::retries);
  return call();
}

CUresult retry_while_absent(std::span<const Access> ranges, SubmitRef call) {
  for (const Access& range : ranges) fakes::notes().waited_for.push_back(range);
  const fakes::Inside inside(&fakes::retries);
  return call();
}

CUresult escape(StreamRef, CUdeviceptr address, const std::string&) {
  fakes::notes().escaped.push_back(address);
  return CUDA_SUCCESS;
}

// In the list of calls, so that its place among them is seen.
void before_wait(std::optional<StreamRef> stream) noexcept {
  fakes::notes().calls.push_back({"before_wait", {fakes::word_of(stream->handle)}, false, false});
}

PinId pin(std::span<const Access> ranges, CUresult* result) {
  for (const Access& range : ranges) fakes::notes().pinned.push_back(range);
  *result = CUDA_SUCCESS;
  return fakes::notes().pinned.size();
}

void unpin(PinId id) noexcept { fakes::notes().unpinned.push_back(id); }

void scan_payload(StreamRef, const void* host, std::size_t bytes) {
  fakes::notes().payloads.emplace_back(host, bytes);
}

void remember_argument(std::uint64_t address) noexcept {
  fakes::notes().remembered.push_back(address);
}

bool is_capturing(StreamRef) noexcept { return false; }

void peer_access_enabled(CUcontext peer) noexcept { fakes::notes().peers.push_back(peer); }

}  // namespace kvshim::preload

namespace kvshim::log {
void write(config::LogLevel, std::string_view text,
           std::chrono::system_clock::time_point) noexcept {
  preload::fakes::notes().log.emplace_back(text);
}
}  // namespace kvshim::log
