// limit, reserve, priority, release, pause and resume of a group: "@NAME", or "@*" for all
// processes of this user on a GPU.
#pragma once

#include <string>

#include "tools/kvshim/invocation.h"
#include "tools/kvshim/outcome.h"

namespace kvshim::cli {

/// Whether a target names a group.
inline bool is_group(const std::string& target) { return target.starts_with('@'); }

/// Carries out a control command for a group. A group's word is recorded; members
/// that join later go by it too (release is for those there are), so nothing is waited for.
/// Throws Failure; kRefused also where all groups of a GPU are in use.
Exit run_group_control(const Invocation& invocation);

}  // namespace kvshim::cli
