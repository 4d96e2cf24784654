// The operators of libtorch on the stand-in GPU: each CUDA kernel is replaced by its CPU kernel, on the same memory.
//
// Not replaced: operators that allocate, those that make views, and copies between devices, which call the runtime. A
// piece of work is a call of an operator whose tensors are known only by their addresses, so that a replayed graph
// reads and writes the same places as the recorded one, whatever uses that memory now.

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/ivalue.h>
#include <ATen/ops/copy_native.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>
#include <c10/util/Exception.h>
#include <torch/library.h>

#include <set>
#include <tuple>

#include "device.h"

namespace {

using at::Tensor;
using c10::IValue;
using torch::jit::Stack;

// The same bytes as a CPU tensor that does not own them.
Tensor on_cpu(const Tensor& tensor) {
  if (!tensor.defined() || !tensor.is_cuda()) return tensor;
  auto options = at::TensorOptions().dtype(tensor.scalar_type()).device(at::kCPU);
  if (tensor.numel() == 0) return at::empty_strided(tensor.sizes(), tensor.strides(), options);
  size_t reach = tensor.element_size();
  for (int64_t i = 0; i < tensor.dim(); ++i) {
    reach += static_cast<size_t>((tensor.size(i) - 1) * tensor.stride(i)) * tensor.element_size();
  }
  if (!stand_in::is_device_memory(tensor.const_data_ptr(), reach)) C10_CUDA_CHECK(cudaErrorIllegalAddress);
  void* data = const_cast<void*>(tensor.const_data_ptr());
  return at::from_blob(data, tensor.sizes(), tensor.strides(), options);
}

// Returns `value` with every tensor on the CPU; sets `device` to the first GPU that is found.
IValue on_cpu(const IValue& value, std::optional<c10::Device>& device) {
  const auto seen = [&](const Tensor& tensor) {
    if (tensor.defined() && tensor.is_cuda() && !device) device = tensor.device();
    return on_cpu(tensor);
  };
  if (value.isTensor()) return seen(value.toTensor());
  if (value.isTensorList()) {
    c10::List<Tensor> list;
    for (Tensor tensor : value.toTensorVector()) list.push_back(seen(tensor));
    return list;
  }
  if (value.isOptionalTensorList()) {
    c10::List<std::optional<Tensor>> list;
    for (const std::optional<Tensor>& tensor : value.toOptionalTensorVector()) {
      list.push_back(tensor ? std::optional<Tensor>(seen(*tensor)) : std::nullopt);
    }
    return list;
  }
  if (value.isDevice() && value.toDevice().is_cuda()) return c10::Device(at::kCPU);
  // the CPU's own generator: the trainer draws no random numbers on a device
  if (value.isGenerator()) return IValue();
  return value;
}

Tensor to_gpu(const Tensor& result, c10::Device device) {
  if (!result.defined() || result.is_cuda()) return result;
  Tensor made = at::empty_strided(result.sizes(), result.strides(), result.options().device(device));
  on_cpu(made).copy_(result);
  return made;
}

struct Call {
  c10::OperatorHandle op;
  Stack arguments;
  // results of the first run
  Stack results;
  // destinations of the results
  std::vector<std::pair<size_t, Tensor>> outputs;
  std::vector<std::tuple<size_t, size_t, Tensor>> lists;

  void run() {
    at::AutoDispatchBelowADInplaceOrView guard;
    Stack stack = arguments;
    op.callBoxed(stack);
    if (results.empty()) {
      results = std::move(stack);
      return;
    }
    for (auto& [index, output] : outputs) output.copy_(stack[index].toTensor());
    for (auto& [index, place, output] : lists) output.copy_(stack[index].toTensorVector()[place]);
  }
};

c10::cuda::CUDAStream stream_of(c10::Device device) { return c10::cuda::getCurrentCUDAStream(device.index()); }

// Returns the argument that a result aliases, if the schema declares one.
std::optional<size_t> argument_of(const c10::FunctionSchema& schema, const c10::Argument& result) {
  if (!result.alias_info() || !result.alias_info()->isWrite()) return std::nullopt;
  for (size_t i = 0; i < schema.arguments().size(); ++i) {
    auto* info = schema.arguments()[i].alias_info();
    if (info && info->isWrite() && info->beforeSets() == result.alias_info()->beforeSets()) return i;
  }
  return std::nullopt;
}

void run_on_cpu(const c10::OperatorHandle& op, c10::DispatchKeySet, Stack* stack) {
  const auto& schema = op.schema();
  size_t num_arguments = schema.arguments().size();
  Stack originals(stack->end() - static_cast<std::ptrdiff_t>(num_arguments), stack->end());
  stack->resize(stack->size() - num_arguments);
  std::optional<c10::Device> device;
  auto call = std::make_shared<Call>(Call{op, {}, {}, {}});
  for (const IValue& value : originals) call->arguments.push_back(on_cpu(value, device));
  if (!device) {
    for (const IValue& value : originals) {
      if (value.isDevice() && value.toDevice().is_cuda()) device = value.toDevice();
    }
  }
  TORCH_CHECK(device, "stand-in GPU: ", schema.operator_name(), " names no device");
  if (device->index() < 0) device = c10::Device(at::kCUDA, static_cast<c10::DeviceIndex>(stand_in::current_device()));
  C10_CUDA_CHECK(stand_in::submit(stream_of(*device).stream(), [call] { call->run(); }));

  for (size_t i = 0; i < schema.returns().size(); ++i) {
    IValue& result = call->results[i];
    if (auto argument = argument_of(schema, schema.returns()[i])) {
      const IValue& original = originals[*argument];
      if (original.isTensor() && original.toTensor().is_cuda() && original.toTensor().sizes() != result.toTensor().sizes()) {
        // it was empty, and the operator sets its size
        Tensor grown = original.toTensor();
        grown.resize_(result.toTensor().sizes());
        on_cpu(grown).copy_(result.toTensor());
        call->outputs.emplace_back(i, on_cpu(grown));
      }
      stack->push_back(original);
    } else if (result.isTensor()) {
      Tensor made = to_gpu(result.toTensor(), *device);
      if (made.defined()) call->outputs.emplace_back(i, on_cpu(made));
      stack->push_back(made);
    } else if (result.isTensorList()) {
      c10::List<Tensor> list;
      for (Tensor tensor : result.toTensorVector()) {
        list.push_back(to_gpu(tensor, *device));
        call->lists.emplace_back(i, list.size() - 1, on_cpu(list.get(list.size() - 1)));
      }
      stack->push_back(list);
    } else {
      stack->push_back(result);
    }
  }
  // kept for a replay, the results would hold the memory of the whole network
  for (IValue& result : call->results) result = IValue(true);
}

// Copies on one device on the CPU, and between devices as usual, which calls the runtime once both sides look alike.
void copy(const c10::OperatorHandle& op, c10::DispatchKeySet keys, Stack* stack) {
  const IValue* arguments = stack->data() + stack->size() - 3;
  Tensor self = arguments[0].toTensor();
  Tensor source = arguments[1].toTensor();
  bool non_blocking = arguments[2].toBool();
  if (self.device() == source.device()) return run_on_cpu(op, keys, stack);
  stack->resize(stack->size() - 3);
  at::native::copy_(self, source, non_blocking);
  stack->push_back(self);
}

bool makes_a_view(const c10::FunctionSchema& schema) {
  for (const auto& result : schema.returns()) {
    if (result.alias_info() && !result.alias_info()->isWrite()) return true;
  }
  return false;
}

class Silence : public c10::WarningHandler {
  void process(const c10::Warning&) override {}
};

const std::set<std::string> AS_THEY_ARE{
    "aten::empty.memory_format", "aten::empty_strided", "aten::resize_",      "aten::_local_scalar_dense",
    "aten::is_pinned",           "aten::_pin_memory",   "aten::record_stream", "aten::is_set_to",
    "aten::_has_same_storage_numel"};

}  // namespace

extern "C" void stand_in_take_over() {
  // never freed: the operators stay replaced
  static auto* library =
      new torch::Library(torch::Library::IMPL, "aten", c10::DispatchKey::CUDA, __FILE__, __LINE__);
  static Silence silence;
  c10::WarningUtils::WarningHandlerGuard guard(&silence);
  auto& dispatcher = c10::Dispatcher::singleton();
  auto names = dispatcher.getRegistrationsForDispatchKey(c10::DispatchKey::CUDA);
  names.emplace_back("aten::convolution", "");
  names.emplace_back("aten::copy_", "");
  for (const auto& name : names) {
    auto op = dispatcher.findSchema(name);
    std::string text = c10::toString(name);
    if (!op || name.name.rfind("aten::", 0) != 0 || AS_THEY_ARE.count(text) || text.rfind("aten::set_", 0) == 0 ||
        makes_a_view(op->schema()) || !op->hasComputedKernelForDispatchKey(c10::DispatchKey::CPU)) {
      continue;
    }
    library->impl(text.c_str(), text == "aten::copy_" ? torch::CppFunction::makeFromBoxedFunction<&copy>()
                                                      : torch::CppFunction::makeFromBoxedFunction<&run_on_cpu>());
  }
  at::globalContext().setUserEnabledCuDNN(false);
}
