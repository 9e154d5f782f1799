// By which number a GPU goes, without asking NVML: its start can take longer than an
// answer may.
#pragma once

#include <filesystem>
#include <map>
#include <string>

namespace kvshim::cli {

/// The GPUs that the driver's module tells of in `folder` (one folder for each, named by its
/// place on the bus), by UUID: numbered by place, as NVML does. Empty when there is none, as
/// on a machine without a GPU. Reads small files only.
std::map<std::string, int> gpu_indices(
    const std::filesystem::path& folder = "/proc/driver/nvidia/gpus");

}  // namespace kvshim::cli
