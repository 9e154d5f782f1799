// What the keys of kvshim top do to the selected process.
#pragma once

#include <string>

#include "tools/kvshim/top_session.h"

namespace kvshim::cli {

/// Carries out kLimit, kRelease or kPause for the selected process, on the selected
/// GPU, and waits half a second for the acknowledgement. Returns what to tell the
/// user; never throws Failure.
std::string steer(const TopSession& session, TopSession::Request request);

}  // namespace kvshim::cli
