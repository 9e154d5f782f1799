#pragma once

#include "tests/simulator/streams.h"

namespace kvshim::simulator {

inline bool is_complete(const Event& event) { return !event.recorded || event.recorded->done; }

}  // namespace kvshim::simulator
