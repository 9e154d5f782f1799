// Finding the records that a command is about: by process id or name, and GPU.
#pragma once

#include <string>
#include <vector>

#include "segment/reader.h"

namespace kvshim::cli {

/// One process on one GPU.
struct Target {
  const segment::GpuSnapshot* gpu = nullptr;  // into the list given to find_targets
  const segment::RecordSnapshot* record = nullptr;
  std::string label;  // "1619 (vllm) on GPU-1234abcd"
};

/// The living records of one process: of the process with id `target`, or the one
/// whose name is `target`, or else starts with it. `gpu` (may be empty) narrows to
/// one GPU: the UUID, its beginning, or its place in `segments`.
/// Throws Failure: kNoProcess, kAmbiguous, kForeignSegment (nothing found, and a
/// segment could not be read), kNoPermission (another user's process).
std::vector<Target> find_targets(const std::vector<segment::GpuSnapshot>& segments,
                                 const std::string& target, const std::string& gpu);

/// The segments that `gpu` (as above) narrows to. Throws Failure: kNoProcess when there are none
/// and `gpu` is not empty.
std::vector<const segment::GpuSnapshot*> chosen_gpus(
    const std::vector<segment::GpuSnapshot>& segments, const std::string& gpu);

/// All living records (on one GPU). Throws Failure when there are none.
std::vector<Target> all_targets(const std::vector<segment::GpuSnapshot>& segments,
                                const std::string& gpu);

/// The segments of this user. Throws Failure when the folder can't be read.
std::vector<segment::GpuSnapshot> read_segments();

}  // namespace kvshim::cli
