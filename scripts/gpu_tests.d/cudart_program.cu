// A program of the CUDA runtime that knows nothing of kvshim. It allocates more than the shim's
// threshold, writes a pattern into part of it, waits until an idle time-out has passed, and reads
// everything back. With --status FOLDER it also demands that the shim's status file tells of the
// pool and, after the wait, of less GPU memory than the pool's size; with --plain that no shim is
// loaded. Exit status 0: right.
#include <cuda_runtime.h>

#include <unistd.h>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>

namespace {

constexpr std::size_t kBytes = std::size_t{512} << 20;
constexpr std::size_t kWords = kBytes / 8;

[[noreturn]] void fail(const char* what, long long detail) {
  std::printf("FAILED: %s (%lld)\n", what, detail);
  std::exit(1);
}

void check(cudaError_t result, const char* what) {
  if (result != cudaSuccess) {
    std::printf("%s: ", cudaGetErrorString(result));
    fail(what, result);
  }
}

// Every stride-th word gets its own index, mixed.
__global__ void write_pattern(unsigned long long* words, std::size_t count, std::size_t stride) {
  for (std::size_t i = blockIdx.x * blockDim.x + threadIdx.x; i * stride < count;
       i += gridDim.x * blockDim.x) {
    words[i * stride] = (i * stride + 1) * 0x9e3779b97f4a7c15ull;
  }
}

__global__ void count_wrong(const unsigned long long* words, std::size_t count, std::size_t stride,
                            unsigned long long* wrong) {
  for (std::size_t i = blockIdx.x * blockDim.x + threadIdx.x; i < count;
       i += gridDim.x * blockDim.x) {
    const unsigned long long expected = i % stride == 0 ? (i + 1) * 0x9e3779b97f4a7c15ull : 0;
    if (words[i] != expected) atomicAdd(wrong, 1ull);
  }
}

std::string status_text(const std::string& folder) {
  std::ifstream file(folder + "/" + std::to_string(getpid()) + ".json");
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// The device's sum: the "resident" that follows the list of pools.
long long resident(const std::string& status) {
  const std::size_t pools_end = status.find("], \"resident\": ");
  if (pools_end == std::string::npos) return -1;
  return std::atoll(status.c_str() + pools_end + std::strlen("], \"resident\": "));
}

bool shim_is_loaded() {
  std::ifstream maps("/proc/self/maps");
  std::stringstream text;
  text << maps.rdbuf();
  return text.str().find("libkvshim.so") != std::string::npos;
}

}  // namespace

int main(int argc, char** argv) {
  const bool plain = argc > 1 && std::strcmp(argv[1], "--plain") == 0;
  const std::string folder = argc > 2 ? argv[2] : "";
  if (shim_is_loaded() == plain) fail("the shim is loaded or not, against expectation", plain);

  unsigned long long* words = nullptr;
  unsigned long long* wrong = nullptr;
  check(cudaMalloc(&words, kBytes), "cudaMalloc");
  check(cudaMalloc(&wrong, 8), "small cudaMalloc");
  check(cudaMemset(words, 0, kBytes), "cudaMemset");
  cudaPointerAttributes attributes{};
  check(cudaPointerGetAttributes(&attributes, words), "cudaPointerGetAttributes");
  if (attributes.type != cudaMemoryTypeDevice || attributes.devicePointer != words) {
    fail("pointer attributes", attributes.type);
  }
  if (!plain) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1300));
    const std::string status = status_text(folder);
    if (status.find("\"bytes\": 536870912") == std::string::npos)
      fail("no pool in the status file", 0);
    if (resident(status) > (64ll << 20)) fail("filling with zeros took memory", resident(status));
  }

  for (std::size_t stride : {kWords / 4, std::size_t{4096}}) {  // four words, then every page
    check(cudaMemset(words, 0, kBytes), "cudaMemset");
    write_pattern<<<64, 256>>>(words, kWords, stride);
    check(cudaGetLastError(), "launch");
    check(cudaDeviceSynchronize(), "writing");
    for (int round = 0; round < 2; ++round) {
      // Idle: released, and the status told. Beside other tests a release may take a while.
      std::this_thread::sleep_for(std::chrono::milliseconds(1800));
      long long bytes = plain ? 0 : resident(status_text(folder));
      for (int i = 0; i < 80 && (bytes < 0 || bytes > static_cast<long long>(kBytes / 2)); ++i) {
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
        bytes = resident(status_text(folder));
      }
      if (bytes < 0 || bytes > static_cast<long long>(kBytes / 2)) {
        fail("after the idle time-out too much is resident", bytes);
      }
      check(cudaMemset(wrong, 0, 8), "cudaMemset");
      count_wrong<<<64, 256>>>(words, kWords, stride, wrong);
      unsigned long long count = 0;
      check(cudaMemcpy(&count, wrong, 8, cudaMemcpyDeviceToHost), "reading the count");
      if (count != 0) fail("words differ", static_cast<long long>(count));
      unsigned long long first = 0;
      check(cudaMemcpy(&first, words, 8, cudaMemcpyDeviceToHost), "reading a word");
      if (first != 0x9e3779b97f4a7c15ull)
        fail("the first word differs", static_cast<long long>(first));
    }
  }
  check(cudaFree(words), "cudaFree");
  check(cudaFree(wrong), "cudaFree");
  std::printf("right: %s\n", plain ? "plain" : "elastic");
  return 0;
}
