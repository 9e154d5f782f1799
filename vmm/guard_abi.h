// What the host and the guard, scan, clear and mark kernels share: plain structures,
// compiled by the CUDA compiler, by the host compiler and by the simulator.
// Every structure is passed by value or lies in pinned memory; none may change
// its layout between the two sides (the static_asserts below are the contract).
#pragma once

#include <cstdint>

namespace kvshim::vmm {

inline constexpr std::uint32_t kMaxWantedRuns = 2048;
inline constexpr std::uint32_t kMaxAnswerRuns = 4096;
inline constexpr std::uint32_t kMaxCopies = 512;
inline constexpr std::uint32_t kMaxFixedRuns = 16;
inline constexpr std::uint32_t kMaxDestinations = 4;
inline constexpr std::uint32_t kMaxTableParts = 4;

struct AbiRun {
  std::uint32_t first;
  std::uint32_t count;
};

struct AbiCopy {
  std::uint64_t source;
  std::uint64_t destination;
  std::uint64_t bytes;
};

enum class AnswerKind : std::uint32_t {
  kPresent = 0,    // runs[] are present now
  kCopyFirst = 1,  // perform copies[], then ask again with RequestKind::kCopied
  kFailed = 2,     // nothing more can be made present: stop asking
};

/// Added to a request's kind: another guard of the same work has passed before. That one may
/// have looked at its bits long ago, and the work behind both has not begun.
inline constexpr std::uint32_t kBehindFlag = 0x100;

enum class RequestKind : std::uint32_t {
  kWantedRows = 0,   // wanted[] lists missing granules: make their rows present
  kWantedExact = 1,  // wanted[] lists missing granules: make just these present
  kCopied = 2,       // the copies of the last answer are done
};

/// The doorbell between guards and the fault server: pinned host memory, one
/// per device. The device side is exclusive: a guard holds GuardContext::lock
/// from its request until it has used the answer.
struct GuardChannel {
  // Written by the device, `request` last.
  alignas(64) std::uint32_t request;
  std::uint32_t request_kind;
  std::uint32_t wanted_count;
  std::uint32_t reserved;
  AbiRun wanted[kMaxWantedRuns];
  // Written by the host, `answer` last (answer == request: answered).
  alignas(64) std::uint32_t answer;
  std::uint32_t answer_kind;
  std::uint32_t run_count;
  std::uint32_t copy_count;
  AbiRun runs[kMaxAnswerRuns];
  AbiCopy copies[kMaxCopies];
  // Written by the watchdog only; 0 again once the server gets on.
  alignas(64) std::uint32_t give_up;
};

/// What every guard needs; by value in each launch.
struct GuardContext {
  std::uint64_t arena_base;
  std::uint32_t* present;    // device memory: one bit per granule of the arena
  std::uint32_t* requested;  // device memory: scratch of the lock's holder
  std::uint32_t* lock;       // device memory: 0 free, 1 held; then the holder's wanted counter
  GuardChannel* channel;     // device address of the pinned channel
};

/// One destination of a writer in the two-level linear form: slot s goes to
/// base + (s / block) * block_stride + (s % block) * slot_stride, `length`
/// bytes. [pool_begin, pool_end) is the pool it must stay in.
struct LinearDestination {
  std::uint64_t base;
  std::uint64_t block_stride;
  std::uint64_t slot_stride;
  std::uint64_t length;
  std::uint64_t pool_begin;
  std::uint64_t pool_end;
};

struct LinearWrite {
  std::uint64_t slots;       // device address of the slot array
  std::uint32_t slot_bytes;  // 4 (int32) or 8 (int64)
  std::uint32_t count;       // slots in the array
  std::int64_t skip_below;   // slots below this are not written (usually 0)
  std::uint64_t block;       // slots per block, at least 1
  std::uint32_t destinations;
  std::uint32_t reserved;
  LinearDestination destination[kMaxDestinations];
};

struct LinearGuardParams {
  GuardContext context;
  LinearWrite write;
  std::uint32_t behind;  // 0 or kBehindFlag
  std::uint32_t reserved;
};

struct FixedGuardParams {
  GuardContext context;
  std::uint32_t run_count;
  std::uint32_t behind;  // 0 or kBehindFlag
  AbiRun runs[kMaxFixedRuns];
};

/// Where a block of a reader's table lies: block b at base + b * block_stride, `length`
/// bytes, if that is inside [pool_begin, pool_end).
struct TablePart {
  std::uint64_t base;
  std::uint64_t block_stride;
  std::uint64_t length;
  std::uint64_t pool_begin;
  std::uint64_t pool_end;
};

/// The block table of one launch of a reader.
struct TableRead {
  std::uint64_t ids;         // device address: int32 block ids in rows
  std::uint64_t row_stride;  // bytes from row to row
  std::uint64_t lengths;     // device address: int32 tokens of each row; 0: rows are full
  std::uint32_t rows;
  std::uint32_t entries;  // most ids in a row
  std::uint32_t block;    // tokens in a block, at least 1
  std::uint32_t parts;
  TablePart part[kMaxTableParts];
};

/// Between the releasing thread and kvshim_mark_read: pinned host memory, one per device.
struct MarkChannel {
  // Written by the host: what marks that are nodes of graphs are to answer; 0: nothing.
  alignas(64) std::uint32_t asked;
  // Written by the device: the last that was answered.
  alignas(64) std::uint32_t answered;
};

/// kvshim_mark_read: in front of a reader, sets the bits of the granules it will read.
struct MarkParams {
  TableRead read;
  std::uint64_t arena_base;
  std::uint32_t* marks;  // device memory: one bit per granule of the arena
  MarkChannel* channel;
  std::uint32_t asked;  // what is answered; 0: what the channel asks when it runs
  std::uint32_t reserved;
};

/// kvshim_take_marks: moves the bits to the host; only words that have any are written.
struct TakeParams {
  std::uint32_t* marks;
  std::uint32_t* taken;  // pinned
  std::uint32_t words;
  std::uint32_t reserved;
};

/// kvshim_scan: one block per extent; result[i] becomes 1 when the i-th range
/// holds a byte that is not zero (results start as 0).
struct ScanParams {
  const AbiCopy* ranges;   // pinned: source = address, bytes; destination unused
  std::uint32_t* nonzero;  // pinned
  std::uint32_t range_count;
  std::uint32_t reserved;
};

/// kvshim_clear_present: clears the bits of the runs.
struct ClearParams {
  GuardContext context;
  const AbiRun* runs;  // pinned
  std::uint32_t run_count;
  std::uint32_t reserved;
};

inline constexpr char kLinearGuardName[] = "kvshim_guard_linear";
inline constexpr char kFixedGuardName[] = "kvshim_guard_fixed";
inline constexpr char kScanName[] = "kvshim_scan";
inline constexpr char kClearName[] = "kvshim_clear_present";
inline constexpr char kMarkName[] = "kvshim_mark_read";
inline constexpr char kTakeName[] = "kvshim_take_marks";

static_assert(sizeof(GuardContext) == 40);
static_assert(sizeof(LinearDestination) == 48);
static_assert(sizeof(LinearWrite) == 40 + kMaxDestinations * 48);
static_assert(sizeof(TableRead) == 40 + kMaxTableParts * 40);
static_assert(sizeof(MarkParams) == sizeof(TableRead) + 32);

}  // namespace kvshim::vmm
