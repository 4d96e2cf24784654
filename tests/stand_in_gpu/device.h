// The interface between the parts of the stand-in GPU: see README.md.

#pragma once

#include <cuda_runtime_api.h>

#include <atomic>
#include <functional>
#include <memory>

namespace stand_in {

using Flag = std::shared_ptr<std::atomic<bool>>;

// Returns success, or, for ever after a fault, the error of the device.
cudaError_t health();

// Submits work to a stream: done at once, after everything queued before. During a recording it is stored in the graph
// and also done, because libtorch needs the shapes of results. The end of the recording undoes it.
cudaError_t submit(cudaStream_t stream, std::function<void()> work);

// Blocks the stream until the flag is true.
void block(cudaStream_t stream, Flag until);

// Returns true if these bytes are in memory that is allocated on a device.
bool is_device_memory(const void* address, size_t bytes);

int num_devices();
size_t memory_bytes();
int current_device();

// Redirects libtorch's operators to the CPU; called once libtorch's CUDA library is loaded (operators.cpp).
void take_over_operators();

}  // namespace stand_in
