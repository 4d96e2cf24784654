// libnvidia-ml.so.1 of the stand-in GPU: the functions that the trainer calls (src/trainer/src/device/nvml.rs).

#include <stdio.h>
#include <string.h>

#include <atomic>
#include <cstdint>

// Functions of the runtime, if it is loaded in this process.
extern "C" __attribute__((weak)) int stand_in_num_devices();
extern "C" __attribute__((weak)) bool stand_in_is_broken();
extern "C" __attribute__((weak)) uint64_t stand_in_memory_bytes();

namespace {

constexpr int SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_FOUND = 6;

int number() { return stand_in_num_devices ? stand_in_num_devices() : 0; }

}  // namespace

extern "C" {

int nvmlInit_v2() { return SUCCESS; }
int nvmlShutdown() { return SUCCESS; }
const char* nvmlErrorString(int) { return "an error of the stand-in NVML"; }

int nvmlSystemGetDriverVersion(char* text, unsigned len) {
  snprintf(text, len, "999.0");
  return SUCCESS;
}

int nvmlDeviceGetCount_v2(unsigned* count) {
  *count = static_cast<unsigned>(number());
  return SUCCESS;
}

int nvmlDeviceGetHandleByPciBusId_v2(const char* place, void** device) {
  unsigned domain, bus;
  if (sscanf(place, "%x:%x", &domain, &bus) != 2 || bus < 0x10 || bus >= 0x20) {
    return NOT_FOUND;
  }
  *device = reinterpret_cast<void*>(static_cast<uintptr_t>(bus));
  return SUCCESS;
}

int nvmlDeviceGetName(void* device, char* text, unsigned len) {
  if (!device) return INVALID_ARGUMENT;
  snprintf(text, len, "stand-in GPU");
  return SUCCESS;
}

struct Memory {
  unsigned version;
  uint64_t total, reserved, free, used;
};

int nvmlDeviceGetMemoryInfo_v2(void*, Memory* memory) {
  memory->total = memory->free = stand_in_memory_bytes ? stand_in_memory_bytes() : 0;
  memory->reserved = memory->used = 0;
  return SUCCESS;
}

int nvmlDeviceGetTotalEccErrors(void*, int, int, unsigned long long* errors) {
  *errors = stand_in_is_broken && stand_in_is_broken() ? 1 : 0;
  return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(void*, unsigned rates[2]) {
  rates[0] = 50;
  rates[1] = 10;
  return SUCCESS;
}

// Another joule with each call.
int nvmlDeviceGetTotalEnergyConsumption(void*, unsigned long long* millijoules) {
  static std::atomic<unsigned long long> counted{0};
  *millijoules = counted += 1000;
  return SUCCESS;
}

// A function that libtorch looks up when memory has run out.
int nvmlDeviceGetComputeRunningProcesses(void*, unsigned* count, void*) {
  *count = 0;
  return SUCCESS;
}
int nvmlDeviceGetNvLinkRemoteDeviceType(void*, unsigned, int*) { return NOT_FOUND; }
int nvmlDeviceGetNvLinkRemotePciInfo_v2(void*, unsigned, void*) { return NOT_FOUND; }
int nvmlSystemGetCudaDriverVersion_v2(int* version) {
  *version = 13000;
  return SUCCESS;
}
}
