#include "tests/engine/scheduler.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>

namespace kvshim::engine {
namespace {

constexpr int kVocabulary = 32000;

std::uint64_t next_hash(std::uint64_t before, const std::vector<int>& tokens, std::size_t begin,
                        std::size_t end) {
  std::uint64_t hash = mix(before + 0x51ed);
  for (std::size_t i = begin; i < end; ++i)
    hash = mix(hash + static_cast<std::uint64_t>(tokens[i]));
  return hash | 1;
}

unsigned blocks_for(unsigned tokens, unsigned block_size) {
  return (tokens + block_size - 1) / block_size;
}

/// Blocks of the pools, less those under the tail that the unknown kernel writes.
unsigned usable_blocks(const Shape& shape, const Options& options) {
  if (!options.unknown) return shape.blocks;
  const auto bytes = shape.block_bytes();
  const auto lost = static_cast<unsigned>((Model::kTailBytes + bytes - 1) / bytes) + 1;
  return shape.blocks > lost ? shape.blocks - lost : 0;
}

}  // namespace

struct Scheduler::Request {
  std::vector<int> tokens;  // prompt, then what was generated
  std::vector<std::uint64_t> hidden;
  std::vector<int> blocks;
  unsigned index = 0;  // in its burst
  unsigned prompt = 0;
  unsigned to_generate = 0;
  unsigned computed = 0;  // tokens whose keys and values are in the pools
  unsigned step_first = 0, step_count = 0;
  std::uint64_t hits = 0;

  unsigned generated() const { return static_cast<unsigned>(tokens.size()) - prompt; }
  bool done() const { return generated() >= to_generate; }
};

Scheduler::Scheduler(Model& model, const Options& options)
    : model_(model),
      options_(options),
      blocks_(usable_blocks(model.shape(), options), options.newest_first) {
  const unsigned rows = (options.requests + options.streams - 1) / options.streams;
  const unsigned longest = options.prompt + options.tokens;
  for (unsigned i = 0; i < options.streams; ++i) {
    workers_.push_back(std::make_unique<Worker>(model, std::max(rows * options.prompt, rows + 8),
                                                rows, blocks_for(longest, options.block_size)));
  }
}

Scheduler::~Scheduler() = default;

CUstream Scheduler::stream() const { return workers_[0]->stream(); }

std::vector<int> Scheduler::make_prompt(unsigned burst, unsigned request) const {
  std::vector<int> prompt;
  // With --prefix three quarters of a prompt come again in every burst.
  const unsigned shared = options_.prefix ? options_.prompt * 3 / 4 : 0;
  for (unsigned i = 0; i < options_.prompt; ++i) {
    const std::uint64_t of = i < shared ? 0 : burst + 1;
    const std::uint64_t key =
        (options_.seed << 48) ^ (of << 32) ^ (std::uint64_t{request} << 16) ^ i;
    prompt.push_back(static_cast<int>(mix(key + 1) % kVocabulary));
  }
  return prompt;
}

void Scheduler::start(Request& request, unsigned burst, unsigned index) {
  request.index = index;
  request.tokens = make_prompt(burst, index);
  request.prompt = options_.prompt;
  // Not all the same length, so that batches of several sizes occur.
  request.to_generate = std::max(1u, options_.tokens - index % 3);
  if (!options_.prefix || options_.recompute) return;
  const unsigned size = options_.block_size;
  std::uint64_t hash = 0;
  // The last token is always computed: its output is needed.
  for (unsigned end = size; end < request.prompt; end += size) {
    hash = next_hash(hash, request.tokens, end - size, end);
    const int block = blocks_.take_shared(hash);
    if (block < 0) break;
    request.blocks.push_back(block);
    request.computed = end;
  }
  request.hits = request.computed;
}

void Scheduler::finish(Request& request) {
  const unsigned size = options_.block_size;
  std::uint64_t hash = 0;
  for (unsigned i = 0; (i + 1) * size <= request.computed; ++i) {
    hash = next_hash(hash, request.tokens, i * size, (i + 1) * size);
    if (options_.prefix) blocks_.remember(request.blocks[i], hash);
  }
  std::for_each(request.blocks.rbegin(), request.blocks.rend(),
                [this](int block) { blocks_.give_back(block); });
}

unsigned Scheduler::place(Worker& worker, Request& request, unsigned row, unsigned used,
                          bool prompt) {
  const unsigned size = options_.block_size;
  const unsigned end = prompt ? request.prompt : static_cast<unsigned>(request.tokens.size());
  request.step_first = used;
  request.step_count = end - request.computed;
  for (; request.computed < end; ++request.computed, ++used) {
    const unsigned position = request.computed;
    if (position / size == request.blocks.size()) {
      const int block = blocks_.take();
      if (block < 0) {
        std::fprintf(stderr, "kvshim_engine: no free block left\n");
        std::exit(1);
      }
      request.blocks.push_back(block);
    }
    TokenPlace& to = worker.places()[used];
    to.token = request.tokens[position];
    to.position = static_cast<std::int32_t>(position);
    to.sequence = static_cast<std::int32_t>(row);
    worker.slots()[used] = std::int64_t{request.blocks[position / size]} * size + position % size;
  }
  std::copy(request.blocks.begin(), request.blocks.end(), worker.table_row(row));
  return used;
}

void Scheduler::submit_step(unsigned index, std::vector<Request*>& requests, bool prompt) {
  Worker& worker = *workers_[index];
  unsigned used = 0;
  unsigned row = 0;
  for (Request* request : requests) used = place(worker, *request, row++, used, prompt);
  // Graphs exist for even batch sizes; what is missing is padding.
  const bool as_graph = options_.graphs && !prompt;
  const unsigned padded = as_graph ? (used + 1) & ~1u : used;
  for (unsigned i = used; i < padded; ++i) {
    worker.places()[i] = TokenPlace{};
    worker.slots()[i] = -1;
  }
  worker.submit(padded, as_graph);
}

void Scheduler::collect_step(unsigned index, std::vector<Request*>& requests, bool) {
  Worker& worker = *workers_[index];
  worker.wait();
  for (Request* request : requests) {
    const unsigned last = request->step_first + request->step_count - 1;
    const std::uint64_t hidden = worker.hidden(last);
    request->hidden.push_back(hidden);
    const std::uint64_t choice = static_cast<std::uint64_t>(worker.best(last)) * 499 + hidden % 499;
    request->tokens.push_back(static_cast<int>(choice % kVocabulary));
  }
}

BurstResult Scheduler::run_burst(unsigned burst, const Progress& progress) {
  BurstResult result;
  std::vector<Request> requests(options_.requests);
  std::vector<std::vector<Request*>> queues(workers_.size());
  for (unsigned i = 0; i < requests.size(); ++i) {
    start(requests[i], burst, i);
    queues[i % queues.size()].push_back(&requests[i]);
  }
  for (bool prompt = true;; prompt = false) {
    for (auto& queue : queues) {
      std::erase_if(queue, [this, &progress](Request* request) {
        if (!request->done()) return false;
        finish(*request);
        if (progress) progress(request->index, true);
        return true;
      });
    }
    if (std::all_of(queues.begin(), queues.end(), [](const auto& q) { return q.empty(); })) break;
    const auto step_ends =
        std::chrono::steady_clock::now() + std::chrono::duration<double>(options_.step_seconds);
    for (unsigned i = 0; i < queues.size(); ++i) {
      if (!queues[i].empty()) submit_step(i, queues[i], prompt);
    }
    for (unsigned i = 0; i < queues.size(); ++i) {
      if (!queues[i].empty()) collect_step(i, queues[i], prompt);
      if (!prompt || !progress) continue;
      for (const Request* request : queues[i]) progress(request->index, false);
    }
    std::this_thread::sleep_until(step_ends);
  }
  result.digest = 0xcbf29ce484222325ULL;
  const auto digest = [&result](std::uint64_t word) {
    for (int byte = 0; byte < 8; ++byte) {
      result.digest = (result.digest ^ ((word >> (8 * byte)) & 0xff)) * 0x100000001b3ULL;
    }
  };
  for (const Request& request : requests) {
    for (std::size_t i = request.prompt; i < request.tokens.size(); ++i) {
      digest(static_cast<std::uint64_t>(request.tokens[i]));
    }
    for (const std::uint64_t hidden : request.hidden) digest(hidden);
    result.generated += request.generated();
    result.prompt_tokens += request.prompt;
    result.prefix_hits += request.hits;
  }
  if (options_.unknown) digest(model_.disturb_tail(stream(), options_.seed + burst));
  return result;
}

}  // namespace kvshim::engine
