// The status file and the summary at exit.
#pragma once

namespace kvshim::preload {

/// Starts the housekeeping thread (events to the log, the status file at most
/// once a second, deferred frees). Once; called when the first pool exists.
void start_status() noexcept;

/// Logs the summary, writes the last status, removes nothing else. Makes no
/// driver call (I8). Idempotent; called at exit.
void summarize_at_exit() noexcept;

/// In a forked child: the parent's file is not ours.
void abandon_status_after_fork() noexcept;

}  // namespace kvshim::preload
