// libcudart.so.13 of the stand-in GPU: streams, events, copies and graphs.
//
// The thread that queues work does it at once, with two exceptions: a stream that waits for a collective is blocked,
// and a stream that is recorded keeps its work for the replay. Calls that CUDA forbids during a recording fail here as
// well. STAND_IN_GPU_FAULT sets the fault of every process: `ecc@N`, the N-th piece of work breaks the device;
// `hang@N`, it never ends; with the suffix `:D`, only on the machine's device D. Next: launches.cpp.

#include <string.h>

#include <algorithm>
#include <thread>

#include "machine.h"

namespace stand_in {

Stream* stream_of(cudaStream_t raw) {
  if (reinterpret_cast<uintptr_t>(raw) > 2) return reinterpret_cast<Stream*>(raw);
  std::lock_guard<std::recursive_mutex> lock(machine().mutex);
  auto& stream = machine().default_streams[device_of_thread];
  if (!stream) {
    stream = std::make_unique<Stream>();
    stream->device = device_of_thread;
  }
  return stream.get();
}

namespace {

std::shared_ptr<Graph> recording_of(Stream* stream) {
  std::lock_guard<std::mutex> lock(stream->mutex);
  return stream->recording;
}

bool has_passed(Stream* stream) {
  std::lock_guard<std::mutex> lock(stream->mutex);
  auto& flags = stream->blocked_by;
  while (!flags.empty() && flags.front()->load()) flags.erase(flags.begin());
  return flags.empty() && !stream->hung;
}

void drain(Stream* stream) {
  while (!has_passed(stream)) std::this_thread::sleep_for(std::chrono::microseconds(50));
}

// CUDA does not wait when work is queued. Here the work is done at that time, so it must wait for earlier work. Work
// that is stuck for this long is stuck for ever: its results are never read, and only the events behind it must not be
// passed.
void drain_before_work(Stream* stream) {
  auto until = std::chrono::steady_clock::now() + std::chrono::seconds(2);
  while (!stream->stuck && !has_passed(stream)) {
    std::this_thread::sleep_for(std::chrono::microseconds(50));
    stream->stuck = std::chrono::steady_clock::now() > until;
  }
}

cudaError_t wait_for(Stream* stream) {
  if (auto graph = recording_of(stream)) {
    graph->invalid = true;
    return said(cudaErrorStreamCaptureUnsupported);
  }
  if (cudaError_t error = unsafe_call()) return error;
  drain(stream);
  return said(health());
}

cudaError_t copy(void* to, const void* from, size_t bytes, cudaStream_t stream) {
  return said(submit(stream, [=] { memmove(to, from, bytes); }));
}

}  // namespace

cudaError_t submit(cudaStream_t raw, std::function<void()> work) {
  if (cudaError_t error = health()) return error;
  Stream* stream = stream_of(raw);
  if (auto graph = recording_of(stream)) {
    graph->nodes.push_back(work);
    work();
    return cudaSuccess;
  }
  int faulty = machine().faulty_device;
  bool may_fail = faulty < 0 || faulty == visible_devices()[static_cast<size_t>(stream->device)];
  if (may_fail && machine().work_left.load() > 0 && machine().work_left.fetch_sub(1) == 1) {
    if (!machine().hangs) {
      machine().broken = cudaErrorECCUncorrectable;
      return cudaErrorECCUncorrectable;
    }
    std::lock_guard<std::mutex> lock(stream->mutex);
    stream->hung = true;
  }
  // on a device that hangs, only events are never passed
  if (!stream->hung) drain_before_work(stream);
  work();
  return cudaSuccess;
}

void block(cudaStream_t raw, Flag until) {
  Stream* stream = stream_of(raw);
  std::lock_guard<std::mutex> lock(stream->mutex);
  stream->blocked_by.push_back(std::move(until));
}

}  // namespace stand_in

using namespace stand_in;

extern "C" {

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  return copy(to, from, bytes, stream);
}

cudaError_t cudaMemcpyPeerAsync(void* to, int, const void* from, int, size_t bytes, cudaStream_t stream) {
  return copy(to, from, bytes, stream);
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  if (cudaError_t error = unsafe_call()) return error;
  return copy(to, from, bytes, nullptr);
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  return said(submit(stream, [=] { memset(to, value, bytes); }));
}

cudaError_t cudaMemset(void* to, int value, size_t bytes) { return cudaMemsetAsync(to, value, bytes, nullptr); }

// Streams and events

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned, int) {
  if (cudaError_t error = health()) return said(error);
  auto made = std::make_unique<Stream>();
  made->device = device_of_thread;
  *stream = reinterpret_cast<cudaStream_t>(made.release());
  return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithPriority(stream, 0, 0); }

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream_of(stream);
  return cudaSuccess;
}

cudaError_t cudaStreamGetPriority(cudaStream_t, int* priority) {
  *priority = 0;
  return cudaSuccess;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  return said(submit(stream, [=] { function(data); }));
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
  if (cudaError_t error = unsafe_call()) return error;
  return has_passed(stream_of(stream)) ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) { return wait_for(stream_of(stream)); }
cudaError_t cudaDeviceSynchronize() { return wait_for(stream_of(nullptr)); }

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  for (auto& flag : reinterpret_cast<Event*>(event)->waits_for) block(stream, flag);
  return said(health());
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  if (cudaError_t error = health()) return said(error);
  *event = reinterpret_cast<cudaEvent_t>(new Event);
  return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete reinterpret_cast<Event*>(event);
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t raw, cudaStream_t stream) {
  if (cudaError_t error = health()) return said(error);
  auto* event = reinterpret_cast<Event*>(raw);
  Stream* from = stream_of(stream);
  std::lock_guard<std::mutex> lock(from->mutex);
  event->waits_for = from->blocked_by;
  event->hung = from->hung;
  event->at = std::chrono::steady_clock::now();
  return cudaSuccess;
}

cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned) {
  return cudaEventRecord(event, stream);
}

cudaError_t cudaEventQuery(cudaEvent_t raw) {
  if (cudaError_t error = unsafe_call()) return error;
  auto* event = reinterpret_cast<Event*>(raw);
  bool passed = !event->hung;
  for (auto& flag : event->waits_for) passed = passed && flag->load();
  // as in CUDA: this is no error, but cudaGetLastError returns it next
  return passed ? cudaSuccess : said(cudaErrorNotReady);
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  for (;;) {
    cudaError_t state = cudaEventQuery(event);
    if (state != cudaErrorNotReady) return state;
    last_error = cudaSuccess;
    std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
}

cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t start, cudaEvent_t end) {
  auto at = [](cudaEvent_t event) { return reinterpret_cast<Event*>(event)->at; };
  *ms = std::chrono::duration<float, std::milli>(at(end) - at(start)).count();
  return cudaSuccess;
}

// Graphs

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  std::swap(*mode, mode_of_thread);
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t raw, cudaStreamCaptureMode mode) {
  if (cudaError_t error = health()) return said(error);
  Stream* stream = stream_of(raw);
  drain_before_work(stream);
  auto graph = std::make_shared<Graph>();
  graph->mode = mode;
  {
    std::lock_guard<std::recursive_mutex> lock(machine().mutex);
    graph->id = ++machine().num_graphs;
    for (auto& [start, block] : machine().blocks) {
      if (block.device != stream->device) continue;
      graph->before[start].assign(start, start + block.bytes);
      // results of a recording are never read; zeros are labels and indices that every operator accepts
      memset(start, 0, block.bytes);
    }
  }
  std::lock_guard<std::mutex> lock(stream->mutex);
  stream->recording = graph;
  recordings_of_thread.push_back(graph);
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t raw, cudaGraph_t* result) {
  Stream* stream = stream_of(raw);
  auto graph = recording_of(stream);
  *result = nullptr;
  if (!graph) return said(cudaErrorIllegalState);
  {
    std::lock_guard<std::mutex> lock(stream->mutex);
    stream->recording = nullptr;
  }
  for (auto at = recordings_of_thread.begin(); at != recordings_of_thread.end(); ++at) {
    if (*at == graph) {
      recordings_of_thread.erase(at);
      break;
    }
  }
  std::lock_guard<std::recursive_mutex> lock(machine().mutex);
  for (auto& [start, bytes] : graph->before) {
    if (machine().blocks.count(start)) memcpy(start, bytes.data(), bytes.size());
  }
  // memory allocated since then looks as if it was never written
  for (auto& [start, block] : machine().blocks) {
    if (block.device == stream->device && !graph->before.count(start)) memset(start, 0xff, std::min(block.bytes, POISONED_BYTES));
  }
  graph->before.clear();
  if (graph->invalid) return said(cudaErrorStreamCaptureInvalidated);
  *result = reinterpret_cast<cudaGraph_t>(new std::shared_ptr<Graph>(graph));
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  auto graph = recording_of(stream_of(stream));
  *status = !graph           ? cudaStreamCaptureStatusNone
            : graph->invalid ? cudaStreamCaptureStatusInvalidated
                             : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}

cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, cudaStreamCaptureStatus* status, unsigned long long* id,
                                     cudaGraph_t* graph, const cudaGraphNode_t** dependencies,
                                     const cudaGraphEdgeData** edges, size_t* num_dependencies) {
  cudaStreamIsCapturing(stream, status);
  auto recording = recording_of(stream_of(stream));
  if (id) *id = recording ? recording->id : 0;
  if (graph) *graph = nullptr;
  if (dependencies) *dependencies = nullptr;
  if (edges) *edges = nullptr;
  if (num_dependencies) *num_dependencies = 0;
  return cudaSuccess;
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t*, size_t* number) {
  *number = (*reinterpret_cast<std::shared_ptr<Graph>*>(graph))->nodes.size();
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* result, cudaGraph_t graph, unsigned long long) {
  if (cudaError_t error = health()) return said(error);
  auto* kept = new std::shared_ptr<Graph>(*reinterpret_cast<std::shared_ptr<Graph>*>(graph));
  *result = reinterpret_cast<cudaGraphExec_t>(kept);
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  auto graph = *reinterpret_cast<std::shared_ptr<Graph>*>(exec);
  return said(submit(stream, [graph] {
    for (auto& node : graph->nodes) node();
  }));
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete reinterpret_cast<std::shared_ptr<Graph>*>(graph);
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete reinterpret_cast<std::shared_ptr<Graph>*>(exec);
  return said(health());
}
}
