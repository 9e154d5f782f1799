// All device code of the mechanism, compiled to PTX and embedded.
#include "vmm/kernels/guard.cuh"
#include "vmm/kernels/mark.cuh"
#include "vmm/kernels/scan.cuh"
