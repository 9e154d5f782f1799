// The test kernels for the GPU.
#include "tests/simulator/test_kernels.cuh"
