// Bursts of requests: prompts, blocks, steps, outputs.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "tests/engine/blocks.h"
#include "tests/engine/model.h"
#include "tests/engine/options.h"

namespace kvshim::engine {

struct BurstResult {
  std::uint64_t digest = 0;     // over every token and hidden state of the burst
  std::uint64_t generated = 0;  // tokens
  std::uint64_t prompt_tokens = 0;
  std::uint64_t prefix_hits = 0;  // prompt tokens whose blocks were there already
};

/// Hears of a request of a burst twice: at its first token and when it is finished.
using Progress = std::function<void(unsigned request, bool finished)>;

class Scheduler {
 public:
  Scheduler(Model& model, const Options& options);
  ~Scheduler();

  /// `progress`, when there is one, is called on this thread between steps.
  BurstResult run_burst(unsigned burst, const Progress& progress = {});
  CUstream stream() const;

 private:
  struct Request;

  std::vector<int> make_prompt(unsigned burst, unsigned request) const;
  void start(Request& request, unsigned burst, unsigned index);
  void finish(Request& request);
  /// Puts the request's next tokens into the worker's step; returns the tokens used so far.
  unsigned place(Worker& worker, Request& request, unsigned row, unsigned used, bool prompt);
  void submit_step(unsigned worker, std::vector<Request*>& requests, bool prompt);
  void collect_step(unsigned worker, std::vector<Request*>& requests, bool prompt);

  Model& model_;
  Options options_;
  Blocks blocks_;
  std::vector<std::unique_ptr<Worker>> workers_;
};

}  // namespace kvshim::engine
