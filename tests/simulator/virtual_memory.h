// Reservations and mappings of the virtual memory calls.
#pragma once

#include "tests/simulator/address_space.h"

namespace kvshim::simulator {

Tally live_reservations();

struct Reservation {
  std::uint64_t base = 0, bytes = 0;
};
std::optional<Reservation> find_reservation(std::uint64_t address);

/// Why a handle of GPU memory can't be had for legacy IPC and the like.
bool is_virtual(std::uint64_t address);

}  // namespace kvshim::simulator
