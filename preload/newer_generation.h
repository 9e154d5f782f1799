// A driver newer than our table can hand out a generation of an intercepted
// function that we don't know (cuMemcpyBatchAsync_v3, say): calls through it are
// not seen. That is said once; a write into a pool that comes this way meets a
// read-only page or memory that is there, never memory that is silently lost.
#pragma once

namespace kvshim::preload {

/// Called for what a resolver returned for `symbol` and no hook exists for. Notes
/// the symbol when it names an intercepted function and `function` is none of its
/// generations that are passed through on purpose. Any thread, no lock of ours; a
/// few microseconds for intercepted names only.
void note_unhooked(const char* symbol, void* function) noexcept;

/// Logs what was noted since the last call. Called after cuInit, when there is a
/// log, and by note_unhooked while the shim is active.
void report_unhooked() noexcept;

}  // namespace kvshim::preload
