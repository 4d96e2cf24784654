// What the parts of the stand-in GPU know of each other: see README.md.

#pragma once

#include <cuda_runtime_api.h>

#include <atomic>
#include <functional>
#include <memory>

namespace stand_in {

using Flag = std::shared_ptr<std::atomic<bool>>;

// What every call answers while all is well: success, or for ever the error that the device has suffered.
cudaError_t health();

// Work for a stream: done at once, after everything queued before; while the stream is recorded, noted in the graph and
// also done, because libtorch wants to know the shapes of results. The graph's end undoes it.
cudaError_t submit(cudaStream_t stream, std::function<void()> work);

// The stream goes on once the flag is true.
void block(cudaStream_t stream, Flag until);

// Whether these bytes lie within memory that is allocated on a device.
bool is_device_memory(const void* address, size_t bytes);

int num_devices();
size_t memory_bytes();
int current_device();

// Operators of libtorch are given to the CPU; called once libtorch's CUDA library is there (operators.cpp).
void take_over_operators();

}  // namespace stand_in
