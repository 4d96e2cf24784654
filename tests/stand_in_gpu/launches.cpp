// libcudart.so.13 of the stand-in GPU: kernels, and functions that libtorch links to and does not call.
//
// Only the trainer's own kernels can be run (kernels.cpp). A kernel of libtorch is an error that names it: its operator
// was not redirected to the CPU (operators.cpp).

#include <stdio.h>
#include <string.h>

#include <cstdlib>

#include "kernels.h"
#include "machine.h"

using namespace stand_in;

namespace {

cudaError_t launch(const void* function, dim3 grid, dim3 block, void** arguments, cudaStream_t stream) {
  if (cudaError_t error = health()) return said(error);
  std::string name;
  {
    std::lock_guard<std::recursive_mutex> lock(machine().mutex);
    auto found = machine().kernels.find(function);
    if (found != machine().kernels.end()) name = found->second;
  }
  if (name.rfind("norm_", 0) == 0) {
    // a recorded argument outlives the call
    auto* argument = static_cast<const char*>(arguments[0]);
    std::vector<char> kept(argument, argument + argument_bytes());
    return said(submit(stream, [=] {
      if (run_kernel(name.c_str(), grid.x, grid.y, block.x, kept.data())) return;
      fprintf(stderr, "stand-in GPU: %s failed: its threads did not come to the same barriers\n", name.c_str());
      abort();
    }));
  }
  fprintf(stderr, "stand-in GPU: it cannot run the kernel %s\n", name.empty() ? "of no known name" : name.c_str());
  return said(cudaErrorNotSupported);
}

}  // namespace

extern "C" {

// Kernels

void** __cudaRegisterFatBinary(void*) {
  static void* handle = nullptr;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
char __cudaInitModule(void**) { return 0; }
void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}

void __cudaRegisterFunction(void**, const char* host, char*, const char* name, int, uint3*, uint3*, dim3*, dim3*, int*) {
  std::lock_guard<std::recursive_mutex> lock(machine().mutex);
  machine().kernels[host] = name;
}

namespace {
struct Configuration {
  dim3 grid, block;
  size_t shared;
  cudaStream_t stream;
};
thread_local std::vector<Configuration> configurations;
}  // namespace

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, cudaStream_t stream) {
  configurations.push_back({grid, block, shared, stream});
  return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  Configuration last = configurations.back();
  configurations.pop_back();
  *grid = last.grid;
  *block = last.block;
  *shared = last.shared;
  *static_cast<cudaStream_t*>(stream) = last.stream;
  return cudaSuccess;
}

cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) {
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(function));
  return cudaSuccess;
}

cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments, size_t,
                               cudaStream_t stream) {
  return launch(reinterpret_cast<const void*>(kernel), grid, block, arguments, stream);
}

cudaError_t cudaLaunchKernel(const void* function, dim3 grid, dim3 block, void** arguments, size_t,
                             cudaStream_t stream) {
  return launch(function, grid, block, arguments, stream);
}

cudaError_t cudaLaunchCooperativeKernel(const void* function, dim3 grid, dim3 block, void** arguments, size_t,
                                        cudaStream_t stream) {
  return launch(function, grid, block, arguments, stream);
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* function, void** arguments) {
  return launch(function, config->gridDim, config->blockDim, arguments, config->stream);
}

// Machine code for this GPU is an ELF file, as NVRTC makes it; kernels are identified by their names in it.
cudaError_t cudaLibraryLoadData(cudaLibrary_t* library, const void* code, cudaJitOption*, void**, unsigned,
                                cudaLibraryOption*, void**, unsigned) {
  if (cudaError_t error = unsafe_call()) return error;
  if (memcmp(code, "\177ELF", 4)) return said(cudaErrorInvalidKernelImage);
  *library = reinterpret_cast<cudaLibrary_t>(const_cast<void*>(code));
  return cudaSuccess;
}

cudaError_t cudaLibraryGetKernel(cudaKernel_t* kernel, cudaLibrary_t, const char* name) {
  if (!has_kernel(name)) return said(cudaErrorSymbolNotFound);
  std::lock_guard<std::recursive_mutex> lock(machine().mutex);
  auto* handle = new std::string(name);
  machine().kernels[handle] = name;
  *kernel = reinterpret_cast<cudaKernel_t>(handle);
  return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  memset(attributes, 0, sizeof *attributes);
  attributes->maxThreadsPerBlock = 1024;
  attributes->ptxVersion = attributes->binaryVersion = 90;
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return cudaSuccess; }

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* number, const void*, int, size_t, unsigned) {
  *number = 1;
  return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* number, const void* function, int size, size_t shared) {
  return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(number, function, size, shared, 0);
}

// The functions of the driver's interface that libtorch calls.

static int context_is_active(int, unsigned* flags, int* active) {
  *flags = 0;
  *active = 1;
  return 0;
}

static int driver_function_of_no_effect() { return 801; }

cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult* status) {
  bool asks = strcmp(name, "cuDevicePrimaryCtxGetState") == 0;
  *function = asks ? reinterpret_cast<void*>(context_is_active) : reinterpret_cast<void*>(driver_function_of_no_effect);
  if (status) *status = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}

// Functions that libtorch's libraries link to and the trainer does not reach.

#define NOT_HERE(name, ...) \
  cudaError_t name(__VA_ARGS__) { return said(cudaErrorNotSupported); }
NOT_HERE(cudaDeviceGetDefaultMemPool, cudaMemPool_t*, int)
NOT_HERE(cudaFreeAsync, void*, cudaStream_t)
NOT_HERE(cudaGetSymbolAddress, void**, const void*)
NOT_HERE(cudaGraphDebugDotPrint, cudaGraph_t, const char*, unsigned)
NOT_HERE(cudaGraphNodeGetDependencies, cudaGraphNode_t, cudaGraphNode_t*, cudaGraphEdgeData*, size_t*)
NOT_HERE(cudaHostRegister, void*, size_t, unsigned)
NOT_HERE(cudaHostUnregister, void*)
NOT_HERE(cudaIpcCloseMemHandle, void*)
NOT_HERE(cudaIpcGetEventHandle, cudaIpcEventHandle_t*, cudaEvent_t)
NOT_HERE(cudaIpcGetMemHandle, cudaIpcMemHandle_t*, void*)
NOT_HERE(cudaIpcOpenEventHandle, cudaEvent_t*, cudaIpcEventHandle_t)
NOT_HERE(cudaIpcOpenMemHandle, void**, cudaIpcMemHandle_t, unsigned)
NOT_HERE(cudaMallocAsync, void**, size_t, cudaStream_t)
NOT_HERE(cudaMemPoolGetAttribute, cudaMemPool_t, cudaMemPoolAttr, void*)
NOT_HERE(cudaMemPoolSetAccess, cudaMemPool_t, const cudaMemAccessDesc*, size_t)
NOT_HERE(cudaMemPoolSetAttribute, cudaMemPool_t, cudaMemPoolAttr, void*)
NOT_HERE(cudaMemPoolTrimTo, cudaMemPool_t, size_t)
NOT_HERE(cudaMemcpy2DAsync, void*, size_t, const void*, size_t, size_t, size_t, cudaMemcpyKind, cudaStream_t)
NOT_HERE(cudaMemcpyToSymbol, const void*, const void*, size_t, size_t, cudaMemcpyKind)
NOT_HERE(cudaStreamAddCallback, cudaStream_t, cudaStreamCallback_t, void*, unsigned)

cudaError_t cudaProfilerStart() { return cudaSuccess; }
cudaError_t cudaProfilerStop() { return cudaSuccess; }
}
