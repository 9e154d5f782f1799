// A kernel with 16 pointers that does nothing with them: what a launch costs.
extern "C" __global__ void kvshim_bench_sixteen(
    const void* a, const void* b, const void* c, const void* d, const void* e, const void* f,
    const void* g, const void* h, const void* i, const void* j, const void* k, const void* l,
    const void* m, const void* n, const void* o, unsigned* out) {
  const void* all[] = {a, b, c, d, e, f, g, h, i, j, k, l, m, n, o};
  if (out == nullptr || threadIdx.x != 0xffffu) return;
  for (const void* one : all) *out += one == nullptr;
}
