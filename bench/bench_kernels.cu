// A kernel with 16 pointers that does nothing with them: what a launch costs.
extern "C" __global__ void kvshim_bench_sixteen(const void* a, const void* b, const void* c,
                                                const void* d, const void* e, const void* f,
                                                const void* g, const void* h, const void* i,
                                                const void* j, const void* k, const void* l,
                                                const void* m, const void* n, const void* o,
                                                unsigned* out) {
  const void* all[] = {a, b, c, d, e, f, g, h, i, j, k, l, m, n, o};
  if (out == nullptr || threadIdx.x != 0xffffu) return;
  for (const void* one : all) *out += one == nullptr;
}

// What copies run on instead of the copy engines, when a benchmark asks what those disturb.
struct alignas(16) KvshimBenchWord {
  unsigned a, b, c, d;
};

extern "C" __global__ void kvshim_bench_copy(KvshimBenchWord* to, const KvshimBenchWord* from,
                                             unsigned long long words) {
  const unsigned long long step = static_cast<unsigned long long>(gridDim.x) * blockDim.x;
  unsigned long long i = static_cast<unsigned long long>(blockIdx.x) * blockDim.x + threadIdx.x;
  for (; i + 3 * step < words; i += 4 * step) {
    KvshimBenchWord held[4];
    for (int k = 0; k < 4; ++k) held[k] = from[i + k * step];
    for (int k = 0; k < 4; ++k) to[i + k * step] = held[k];
  }
  for (; i < words; i += step) to[i] = from[i];
}

// What another process does to the GPU, when a benchmark asks what that costs: occupies one
// block until words[0] is set, and says in words[1] that it runs. `sleeps`: between its looks.
extern "C" __global__ void kvshim_bench_occupy(volatile unsigned* words, int sleeps) {
  words[1] = 1;
  __threadfence_system();
  while (words[0] == 0) {
    if (sleeps != 0) __nanosleep(100000);
  }
}

extern "C" __global__ void kvshim_bench_nothing() {}
