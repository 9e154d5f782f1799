// Reference-counted objects of the user whose life graphs can prolong.
#pragma once

#include "tests/simulator/api.h"

namespace kvshim::simulator {

/// Takes `count` references away; calls the user's function with the last one.
/// INVALID_VALUE when there are not that many.
CUresult release_user_object(CUuserObject object, unsigned count);

}  // namespace kvshim::simulator
