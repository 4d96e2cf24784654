// What tch does not bind, behind a C interface: see src/device/shim.rs, which declares every function and explains why it exists.
//
// Each function returns null, or a message that the caller frees with shim_free. No exception leaves this file.
// A `Tensor*` is the pointer that tch holds; it stays the caller's.

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <c10/core/AutogradState.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/Event.h>
#include <c10/core/Stream.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/headeronly/version.h>

#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>

#include "guarded.h"

using at::Tensor;
using orchestrator::guarded;

namespace {

// Sums a tensor in place over all replicas; zero for success.
using Reduce = int32_t (*)(void* context, Tensor* tensor);

void reduce_or_throw(int64_t reduce, int64_t context, Tensor& tensor) {
  auto* function = reinterpret_cast<Reduce>(reduce);
  if (function(reinterpret_cast<void*>(context), &tensor) != 0) {
    throw std::runtime_error("the sum over replicas was aborted");
  }
}

// y = sum over replicas of x. Every replica's loss depends on every replica's x, so the gradient is summed as well.
struct SumOverReplicas : torch::autograd::Function<SumOverReplicas> {
  static Tensor forward(torch::autograd::AutogradContext* ctx, const Tensor& x, int64_t reduce, int64_t context) {
    ctx->saved_data["reduce"] = reduce;
    ctx->saved_data["context"] = context;
    Tensor sum = x.detach().clone(at::MemoryFormat::Contiguous);
    reduce_or_throw(reduce, context, sum);
    return sum;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list gradients) {
    Tensor sum = gradients[0].clone(at::MemoryFormat::Contiguous);
    reduce_or_throw(ctx->saved_data["reduce"].toInt(), ctx->saved_data["context"].toInt(), sum);
    return {sum, Tensor(), Tensor()};
  }
};

// libtorch warns of some operators at every call: of max pooling's backward pass where kernels are to be deterministic.
class OncePerText : public c10::WarningHandler {
  void process(const c10::Warning& warning) override {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (!told_.insert(warning.msg()).second) return;
    }
    c10::WarningHandler::process(warning);
  }

  std::mutex mutex_;
  std::set<std::string> told_;
};

}  // namespace

extern "C" {

void shim_free(char* message) { free(message); }

const char* shim_libtorch_version() { return TORCH_VERSION; }

char* shim_sum_over_replicas(Tensor* x, Reduce reduce, void* context, Tensor** result) {
  return guarded([&] {
    Tensor sum = SumOverReplicas::apply(*x, reinterpret_cast<int64_t>(reduce), reinterpret_cast<int64_t>(context));
    *result = new Tensor(sum);
  });
}

char* shim_set_autograd_threads(bool enabled) {
  return guarded([&] { c10::AutogradState::get_tls_state().set_multithreading_enabled(enabled); });
}

char* shim_choose_cuda_kernels(bool deterministic, int32_t num_candidates) {
  return guarded([&] {
    static OncePerText once;
    c10::WarningUtils::set_warning_handler(&once);
    at::Context& context = at::globalContext();
    context.setBenchmarkCuDNN(!deterministic);
    context.setBenchmarkLimitCuDNN(num_candidates);
    context.setDeterministicCuDNN(deterministic);
    context.setDeterministicAlgorithms(deterministic, /*warn_only=*/true);
    // else every new tensor is filled with NaN first, and here each is written before it is read
    context.setDeterministicFillUninitializedMemory(false);
    context.setAllowTF32CuDNN(true);
    context.setAllowTF32CuBLAS(true);
  });
}

// One stream for each GPU and process. All threads share it, so that what one frees another may use, and what one queues
// is done before what another queues later. The stream is never given back.
char* shim_use_stream(int8_t index) {
  return guarded([&] {
    static std::mutex mutex;
    static std::map<int8_t, c10::Stream> streams;
    c10::Device device(c10::DeviceType::CUDA, index);
    at::globalContext().lazyInitDevice(c10::DeviceType::CUDA);
    c10::impl::VirtualGuardImpl cuda(c10::DeviceType::CUDA);
    cuda.setDevice(device);
    std::lock_guard<std::mutex> lock(mutex);
    auto found = streams.find(index);
    if (found == streams.end()) {
      found = streams.emplace(index, cuda.getStreamFromGlobalPool(device)).first;
    }
    cuda.exchangeStream(found->second);
  });
}

char* shim_current_stream(int8_t index, void** stream) {
  return guarded([&] {
    c10::impl::VirtualGuardImpl cuda(c10::DeviceType::CUDA);
    *stream = cuda.getStreamNativeHandle(cuda.getStream(c10::Device(c10::DeviceType::CUDA, index)));
  });
}

// Marks the end of what this thread has queued on a GPU.
char* shim_event_record(int8_t index, c10::Event** result) {
  return guarded([&] {
    c10::impl::VirtualGuardImpl cuda(c10::DeviceType::CUDA);
    auto event = std::make_unique<c10::Event>(c10::DeviceType::CUDA);
    event->record(cuda.getStream(c10::Device(c10::DeviceType::CUDA, index)));
    *result = event.release();
  });
}

char* shim_event_query(const c10::Event* event, bool* passed) {
  return guarded([&] { *passed = event->query(); });
}

void shim_event_free(c10::Event* event) {
  free(guarded([&] { delete event; }));
}

char* shim_free_cached_cuda_memory() {
  return guarded([&] { c10::getDeviceAllocator(c10::DeviceType::CUDA)->emptyCache(); });
}

char* shim_cuda_memory(int8_t index, int64_t* free, int64_t* total, int64_t* allocated) {
  return guarded([&] {
    at::globalContext().lazyInitDevice(c10::DeviceType::CUDA);
    c10::DeviceAllocator* allocator = c10::getDeviceAllocator(c10::DeviceType::CUDA);
    auto info = allocator->getMemoryInfo(index);
    *free = static_cast<int64_t>(info.first);
    *total = static_cast<int64_t>(info.second);
    auto stats = allocator->getDeviceStats(index);
    *allocated = stats.allocated_bytes[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)].current;
  });
}

char* shim_reset_peak_cuda_memory(int8_t index) {
  return guarded([&] { c10::getDeviceAllocator(c10::DeviceType::CUDA)->resetPeakStats(index); });
}

char* shim_peak_cuda_memory(int8_t index, int64_t* bytes) {
  return guarded([&] {
    auto stats = c10::getDeviceAllocator(c10::DeviceType::CUDA)->getDeviceStats(index);
    *bytes = stats.allocated_bytes[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)].peak;
  });
}

// To a GPU by way of page-locked memory, without waiting: libtorch keeps that memory until the copy is done. tch's own
// `pin_memory` names the device, which torch 2.11 answers with two lines on stderr each time.
char* shim_upload(const Tensor* host, int8_t index, Tensor** result) {
  return guarded([&] {
    *result = new Tensor(host->pin_memory().to(c10::Device(c10::DeviceType::CUDA, index), host->scalar_type(),
                                               /*non_blocking=*/true, /*copy=*/false));
  });
}

char* shim_channels_last(Tensor* x, Tensor** result) {
  return guarded([&] { *result = new Tensor(x->contiguous(at::MemoryFormat::ChannelsLast)); });
}

bool shim_has_channels_innermost(const Tensor* x) {
  return x->dim() == 4 && x->is_contiguous(at::MemoryFormat::ChannelsLast);
}
}
