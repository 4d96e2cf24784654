// The part of the shim that needs libtorch's CUDA library: CUDA graphs. Compiled into a shared object of its own, which
// the trainer carries inside itself and opens where a GPU is (src/device/cuda/cuda_library.rs), so that one binary serves machines
// with and without one. It is built from headers alone and linked against nothing: what it calls is found in libtorch's
// libraries, which are in the process by then.
//
// As in shim.cpp: each function returns null, or a message that the caller frees with shim_free. No exception leaves.

#include <ATen/Context.h>
#include <ATen/core/CachingHostAllocator.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>

#include <cstdlib>
#include <memory>

#include "guarded.h"

using orchestrator::guarded;

namespace {

struct Graph {
  at::cuda::CUDAGraph graph;
  c10::DeviceIndex device = -1;
  c10::MempoolId_t pool{0, 0};
};

// A capture that failed leaves both allocators, of the GPU's and of page-locked memory, believing that it continues. What a
// successful end has done already is refused, and nothing is given back twice.
void abandon(const Graph& graph) noexcept {
  const auto succeeds = [](auto body) {
    try {
      body();
      return true;
    } catch (...) {
      return false;
    }
  };
  namespace allocator = c10::cuda::CUDACachingAllocator;
  if (succeeds([&] { allocator::endAllocateToPool(graph.device, graph.pool); })) {
    succeeds([&] { allocator::releasePool(graph.device, graph.pool); });
  }
  auto* host = at::getHostAllocator(at::kCUDA);
  if (succeeds([&] { host->end_allocate_to_pool(graph.pool); })) succeeds([&] { host->release_pool(graph.pool); });
}

}  // namespace

extern "C" {

// Everything that this thread queues on its current stream from here on is recorded instead of done. `other`: null, or a
// graph whose memory pool is shared; the two must be replayed in the order in which they were recorded.
char* cuda_library_graph_begin(Graph* other, int8_t index, Graph** result) {
  return guarded([&] {
    auto made = std::make_unique<Graph>();
    made->device = index;
    made->pool = other ? other->pool : at::cuda::graph_pool_handle();
    // During a capture nothing that is cached can be freed, and the graph's pool takes as much again.
    if (!other) c10::cuda::CUDACachingAllocator::emptyCache();
    try {
      // of this thread only: other replicas allocate and launch meanwhile
      made->graph.capture_begin(made->pool, cudaStreamCaptureModeThreadLocal);
    } catch (...) {
      abandon(*made);
      throw;
    }
    *result = made.release();
  });
}

// Ends the recording and makes it replayable. After a failure the graph is of no use and must be freed.
char* cuda_library_graph_end(Graph* graph) {
  return guarded([&] {
    try {
      graph->graph.capture_end();
    } catch (...) {
      abandon(*graph);
      throw;
    }
  });
}

// Queues the recorded work on this thread's current stream.
char* cuda_library_graph_replay(Graph* graph) {
  return guarded([&] { graph->graph.replay(); });
}

void cuda_library_graph_free(Graph* graph) {
  // destructors of graphs report by exception when the device is in an error state
  char* message = guarded([&] { delete graph; });
  free(message);
}

// Most of a GPU's memory, as a share of all of it, that this process may take.
char* cuda_library_set_memory_fraction(int8_t index, double fraction) {
  return guarded([&] {
    at::globalContext().lazyInitDevice(c10::DeviceType::CUDA);
    c10::cuda::CUDACachingAllocator::setMemoryFraction(fraction, index);
  });
}
}
