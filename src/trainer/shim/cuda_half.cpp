// The part of the shim that needs libtorch's CUDA library: CUDA graphs. Compiled into a shared object of its own, which
// the trainer carries inside itself and opens where a GPU is (src/cuda/half.rs), so that one binary serves machines
// with and without one. It is built from headers alone and linked against nothing: what it calls is found in libtorch's
// libraries, which are in the process by then.
//
// As in shim.cpp: each function returns null, or a message that the caller frees with shim_free. No exception leaves.

#include <ATen/Context.h>
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
};

}  // namespace

extern "C" {

// Everything that this thread queues on its current stream from here on is recorded instead of done. `other`: null, or a
// graph whose memory pool is shared; the two must be replayed in the order in which they were recorded.
char* cuda_half_graph_begin(Graph* other, int8_t index, Graph** result) {
  return guarded([&] {
    auto made = std::make_unique<Graph>();
    made->device = index;
    // of this thread only: other replicas allocate and launch meanwhile
    made->graph.capture_begin(other ? other->graph.pool() : c10::MempoolId_t{0, 0}, cudaStreamCaptureModeThreadLocal);
    *result = made.release();
  });
}

// Ends the recording and makes it replayable. After a failure the graph is of no use and must be freed.
char* cuda_half_graph_end(Graph* graph) {
  return guarded([&] {
    try {
      graph->graph.capture_end();
    } catch (...) {
      // an invalid capture leaves the allocator believing that it goes on
      try {
        c10::cuda::CUDACachingAllocator::endAllocateToPool(graph->device, graph->graph.pool());
      } catch (...) {
      }
      throw;
    }
  });
}

// Queues the recorded work on this thread's current stream.
char* cuda_half_graph_replay(Graph* graph) {
  return guarded([&] { graph->graph.replay(); });
}

void cuda_half_graph_free(Graph* graph) {
  // destructors of graphs report by exception when the device is in an error state
  char* message = guarded([&] { delete graph; });
  free(message);
}

// Most of a GPU's memory, as a share of all of it, that this process may take.
char* cuda_half_set_memory_fraction(int8_t index, double fraction) {
  return guarded([&] {
    at::globalContext().lazyInitDevice(c10::DeviceType::CUDA);
    c10::cuda::CUDACachingAllocator::setMemoryFraction(fraction, index);
  });
}
}
