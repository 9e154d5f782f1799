// The Multi-Process Service: clients of one GPU share its faults.
#pragma once

#include <cuda.h>

#include <cstdint>
#include <string>
#include <string_view>

namespace kvshim::preload {

/// Whether contexts of the device go through MPS, as the driver says (false where it is too
/// old to say). One query. REQUIRES cuInit succeeded.
bool shared_through_mps(CUdevice device) noexcept;

/// What a client may hold by `text`, the value of CUDA_MPS_PINNED_DEVICE_MEM_LIMIT: a list
/// of DEVICE=LIMIT by comma, DEVICE an ordinal or the beginning of a UUID (`GPU-...`), LIMIT a
/// whole number with G or M (binary; a B may follow). Bytes; 0: none for this device, or not
/// understood, then with `*problem`.
std::uint64_t mps_limit(std::string_view text, CUdevice device, std::string_view uuid,
                        std::string* problem);
/// The same of this process's environment; what isn't understood is one warning.
std::uint64_t own_mps_limit(CUdevice device, std::string_view uuid);

}  // namespace kvshim::preload
