// libcudart.so.13 of the stand-in GPU: devices and memory. Environment variables set the number of devices
// (STAND_IN_GPUS, 1) and the memory of each (STAND_IN_GPU_MIB, 4096); CUDA_VISIBLE_DEVICES is respected. New memory is
// filled with NaN, in the first 64 MiB of a block. Next: streams.cpp.

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include <cstdlib>
#include <sstream>

#include "machine.h"

namespace stand_in {
namespace {

constexpr size_t MOST_DEVICES = 8;

size_t number_of(const char* name, size_t otherwise) {
  const char* text = getenv(name);
  return text && *text ? strtoull(text, nullptr, 10) : otherwise;
}

}  // namespace

// Never destroyed: libtorch's threads outlive main.
Machine& machine() {
  static Machine* made = new Machine;
  return *made;
}

const std::vector<int>& visible_devices() {
  static const std::vector<int> devices = [] {
    int present = static_cast<int>(std::min(number_of("STAND_IN_GPUS", 1), MOST_DEVICES));
    std::vector<int> found;
    const char* listed = getenv("CUDA_VISIBLE_DEVICES");
    for (int device = 0; !listed && device < present; ++device) found.push_back(device);
    std::stringstream entries(listed ? listed : "");
    for (std::string entry; std::getline(entries, entry, ',');) {
      // UUIDs as nvidia-smi prints them: their last digits count from 1
      bool is_uuid = entry.rfind("GPU-", 0) == 0;
      int device = is_uuid ? atoi(entry.c_str() + entry.rfind('-') + 1) - 1 : atoi(entry.c_str());
      if (device < 0 || device >= present) break;
      found.push_back(device);
    }
    return found;
  }();
  return devices;
}

thread_local int device_of_thread = 0;
thread_local cudaError_t last_error = cudaSuccess;
thread_local cudaStreamCaptureMode mode_of_thread = cudaStreamCaptureModeGlobal;
thread_local std::vector<std::shared_ptr<Graph>> recordings_of_thread;

cudaError_t said(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

cudaError_t unsafe_call() {
  if (cudaError_t error = health()) return said(error);
  if (mode_of_thread == cudaStreamCaptureModeRelaxed) return cudaSuccess;
  for (auto& graph : recordings_of_thread) {
    if (graph->mode == cudaStreamCaptureModeRelaxed) continue;
    graph->invalid = true;
    return said(cudaErrorStreamCaptureUnsupported);
  }
  return cudaSuccess;
}

cudaError_t health() { return machine().broken.load(); }

bool is_device_memory(const void* address, size_t bytes) {
  std::lock_guard<std::recursive_mutex> lock(machine().mutex);
  char* start = static_cast<char*>(const_cast<void*>(address));
  auto next = machine().blocks.upper_bound(start);
  if (next == machine().blocks.begin()) return false;
  auto& [first, block] = *std::prev(next);
  return start + bytes <= first + block.bytes;
}

int num_devices() { return static_cast<int>(visible_devices().size()); }

void take_over_operators() {
  static std::once_flag once;
  if (!dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_NOLOAD)) return;
  std::call_once(once, [] {
    Dl_info here;
    dladdr(reinterpret_cast<void*>(&take_over_operators), &here);
    std::string path(here.dli_fname);
    path.replace(path.rfind('/') + 1, std::string::npos, "libstand_in_operators.so");
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) {
      fprintf(stderr, "stand-in GPU: %s\n", dlerror());
      abort();
    }
    reinterpret_cast<void (*)()>(dlsym(library, "stand_in_take_over"))();
  });
}

size_t memory_bytes() { return number_of("STAND_IN_GPU_MIB", 4096) << 20; }

int current_device() { return device_of_thread; }

}  // namespace stand_in

using namespace stand_in;

extern "C" {

// Devices

cudaError_t cudaGetDeviceCount(int* count) {
  *count = num_devices();
  if (*count == 0) return said(cudaErrorNoDevice);
  take_over_operators();
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  *device = device_of_thread;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= num_devices()) return said(cudaErrorInvalidDevice);
  if (cudaError_t error = health()) return said(error);
  device_of_thread = device;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (device < 0 || device >= num_devices()) return said(cudaErrorInvalidDevice);
  memset(properties, 0, sizeof *properties);
  snprintf(properties->name, sizeof properties->name, "stand-in GPU");
  properties->uuid.bytes[15] = static_cast<char>(visible_devices()[static_cast<size_t>(device)] + 1);
  properties->totalGlobalMem = memory_bytes();
  properties->sharedMemPerBlock = 48 << 10;
  properties->sharedMemPerBlockOptin = 227 << 10;
  properties->sharedMemPerMultiprocessor = 228 << 10;
  properties->regsPerBlock = properties->regsPerMultiprocessor = 65536;
  properties->warpSize = 32;
  properties->maxThreadsPerBlock = 1024;
  properties->maxThreadsDim[0] = properties->maxThreadsDim[1] = 1024;
  properties->maxThreadsDim[2] = 64;
  properties->maxGridSize[0] = 2147483647;
  properties->maxGridSize[1] = properties->maxGridSize[2] = 65535;
  properties->multiProcessorCount = 132;
  properties->maxThreadsPerMultiProcessor = 2048;
  properties->maxBlocksPerMultiProcessor = 32;
  properties->major = 9;
  properties->l2CacheSize = 50 << 20;
  properties->textureAlignment = 512;
  properties->memoryBusWidth = 6144;
  properties->pciBusID = 0x10 + visible_devices()[static_cast<size_t>(device)];
  properties->ECCEnabled = properties->concurrentKernels = properties->unifiedAddressing = 1;
  properties->asyncEngineCount = 3;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (device < 0 || device >= num_devices()) return said(cudaErrorInvalidDevice);
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor: *value = 9; break;
    case cudaDevAttrMultiProcessorCount: *value = 132; break;
    case cudaDevAttrMaxThreadsPerBlock: *value = 1024; break;
    case cudaDevAttrWarpSize: *value = 32; break;
    default: *value = 0;
  }
  return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char* text, int len, int device) {
  if (device < 0 || device >= num_devices()) return said(cudaErrorInvalidDevice);
  if (cudaError_t error = health()) return said(error);
  snprintf(text, static_cast<size_t>(len), "0000:%02x:00.0", 0x10 + visible_devices()[static_cast<size_t>(device)]);
  return cudaSuccess;
}

cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) {
  *can = 0;
  return cudaSuccess;
}

cudaError_t cudaDeviceEnablePeerAccess(int, unsigned) { return said(cudaErrorNotSupported); }

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -5;
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}

// Errors

const char* cudaGetErrorName(cudaError_t error) { return error == cudaSuccess ? "cudaSuccess" : "cudaError"; }

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    case cudaErrorECCUncorrectable: return "uncorrectable ECC error encountered";
    case cudaErrorIllegalAddress: return "an illegal memory access was encountered";
    case cudaErrorNotReady: return "device not ready";
    case cudaErrorNotSupported: return "operation not supported";
    case cudaErrorStreamCaptureUnsupported: return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated: return "operation failed due to a previous error during capture";
    default: return "an error of the stand-in GPU";
  }
}

cudaError_t cudaGetLastError() {
  cudaError_t error = last_error;
  last_error = health();
  return error;
}

cudaError_t cudaPeekAtLastError() { return last_error; }

// Memory

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  if (cudaError_t error = unsafe_call()) return error;
  std::lock_guard<std::recursive_mutex> lock(machine().mutex);
  size_t& used = machine().used[device_of_thread];
  if (used + bytes > memory_bytes()) return said(cudaErrorMemoryAllocation);
  void* made = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (made == MAP_FAILED) return said(cudaErrorMemoryAllocation);
  if (recordings_of_thread.empty()) memset(made, 0xff, std::min(bytes, POISONED_BYTES));
  used += bytes;
  machine().blocks[static_cast<char*>(made)] = {bytes, device_of_thread};
  *pointer = made;
  return cudaSuccess;
}

cudaError_t cudaFree(void* pointer) {
  if (!pointer) return cudaSuccess;
  if (cudaError_t error = unsafe_call()) return error;
  std::lock_guard<std::recursive_mutex> lock(machine().mutex);
  auto found = machine().blocks.find(static_cast<char*>(pointer));
  if (found == machine().blocks.end()) return said(cudaErrorInvalidValue);
  machine().used[found->second.device] -= found->second.bytes;
  munmap(pointer, found->second.bytes);
  machine().blocks.erase(found);
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  if (cudaError_t error = unsafe_call()) return error;
  std::lock_guard<std::recursive_mutex> lock(machine().mutex);
  *total = memory_bytes();
  *free = *total - machine().used[device_of_thread];
  return cudaSuccess;
}

cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned) {
  if (cudaError_t error = unsafe_call()) return error;
  if (posix_memalign(pointer, 4096, bytes)) return said(cudaErrorMemoryAllocation);
  std::lock_guard<std::recursive_mutex> lock(machine().mutex);
  machine().locked[static_cast<char*>(*pointer)] = bytes;
  return cudaSuccess;
}

cudaError_t cudaFreeHost(void* pointer) {
  if (cudaError_t error = unsafe_call()) return error;
  std::lock_guard<std::recursive_mutex> lock(machine().mutex);
  machine().locked.erase(static_cast<char*>(pointer));
  free(pointer);
  return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  memset(attributes, 0, sizeof *attributes);
  std::lock_guard<std::recursive_mutex> lock(machine().mutex);
  char* address = static_cast<char*>(const_cast<void*>(pointer));
  const auto within = [&](auto& map, auto bytes_of) {
    auto next = map.upper_bound(address);
    if (next == map.begin()) return map.end();
    auto found = std::prev(next);
    return address < found->first + bytes_of(found->second) ? found : map.end();
  };
  auto block = within(machine().blocks, [](const Block& block) { return block.bytes; });
  if (block != machine().blocks.end()) {
    attributes->type = cudaMemoryTypeDevice;
    attributes->device = block->second.device;
    attributes->devicePointer = address;
    return cudaSuccess;
  }
  auto locked = within(machine().locked, [](size_t bytes) { return bytes; });
  attributes->type = locked == machine().locked.end() ? cudaMemoryTypeUnregistered : cudaMemoryTypeHost;
  attributes->device = device_of_thread;
  attributes->hostPointer = address;
  return cudaSuccess;
}

// Used by nvml.cpp.
int stand_in_num_devices() { return num_devices(); }
bool stand_in_is_broken() { return health() != cudaSuccess; }
uint64_t stand_in_memory_bytes() { return memory_bytes(); }
}
