// libcuda.so.1 of the stand-in GPU: libtorch calls one function of it before it makes a device current.

#include <cuda.h>

extern "C" CUresult cuDevicePrimaryCtxGetState(CUdevice, unsigned* flags, int* active) {
  *flags = 0;
  *active = 1;
  return CUDA_SUCCESS;
}
