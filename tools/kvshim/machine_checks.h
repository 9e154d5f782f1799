// kvshim doctor: the machine, the folders, the configuration.
#pragma once

#include <string>

#include "tools/kvshim/driver_probe.h"
#include "tools/kvshim/finding.h"

namespace kvshim::cli {

/// Judges what the driver said. Pure.
Findings judge_driver(const DriverFacts& facts);

/// Device files, NVIDIA's kernel module, MPS.
Findings check_devices();

/// The folder of status files and that of the segments: there, ours, writable,
/// with room.
Findings check_folders(const std::string& status_folder, const std::string& segment_folder);

/// Segments of another version or damaged.
Findings check_segments(const std::string& segment_folder);

/// Host memory for parked contents.
Findings check_host_memory();

/// Problems of the configuration, one line each with its place in the file.
Findings judge_configuration(const std::string& source, bool disabled,
                             const std::vector<std::string>& problems);

}  // namespace kvshim::cli
