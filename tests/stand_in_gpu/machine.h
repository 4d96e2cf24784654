// The state of the stand-in GPU, shared by the files of its runtime.

#pragma once

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "device.h"

namespace stand_in {

constexpr size_t POISONED_BYTES = size_t{64} << 20;

struct Graph {
  std::vector<std::function<void()>> nodes;
  cudaStreamCaptureMode mode;
  bool invalid = false;
  unsigned long long id;
  // the earlier content of memory
  std::map<char*, std::vector<char>> before;
};

struct Stream {
  int device;
  std::mutex mutex;
  std::vector<Flag> blocked_by;
  std::shared_ptr<Graph> recording;
  bool hung = false;
  std::atomic<bool> stuck{false};
};

struct Event {
  std::vector<Flag> waits_for;
  bool hung = false;
  std::chrono::steady_clock::time_point at;
};

struct Block {
  size_t bytes;
  int device;
};

struct Machine {
  std::recursive_mutex mutex;
  std::map<char*, Block> blocks;
  std::map<char*, size_t> locked;
  std::map<int, size_t> used;
  std::map<int, std::unique_ptr<Stream>> default_streams;
  std::unordered_map<const void*, std::string> kernels;
  unsigned long long num_graphs = 0;
  std::atomic<cudaError_t> broken{cudaSuccess};
  std::atomic<long> work_left{-1};
  bool hangs = false;
  // a device of the machine; negative: any
  int faulty_device = -1;

  Machine() {
    const char* fault = getenv("STAND_IN_GPU_FAULT");
    if (!fault) return;
    const char* at = strchr(fault, '@');
    if (at) work_left = atol(at + 1);
    if (at && strchr(at, ':')) faulty_device = atoi(strchr(at, ':') + 1);
    hangs = strncmp(fault, "hang", 4) == 0;
  }
};

Machine& machine();

// The machine's numbers of the devices that are visible to this process.
const std::vector<int>& visible_devices();

// The state of the calling thread.
extern thread_local int device_of_thread;
extern thread_local cudaError_t last_error;
extern thread_local cudaStreamCaptureMode mode_of_thread;
extern thread_local std::vector<std::shared_ptr<Graph>> recordings_of_thread;

// Records an error for cudaGetLastError.
cudaError_t said(cudaError_t error);

// Some calls would break a recording: as in CUDA they are an error during one, depending on its mode.
cudaError_t unsafe_call();

Stream* stream_of(cudaStream_t raw);

}  // namespace stand_in
