// norm.h on a GPU: what launches the kernels of norm_kernels.cu. Part of the CUDA library of the shim, as cuda_library.cpp.
//
// The machine code comes from src/device/cuda/norm.rs, which has NVRTC make it for the GPU at hand. All of it is loaded before
// the first pass, so that no kernel has to be while a step is recorded. A pass allocates from libtorch's allocator,
// queues on the current stream and waits for nothing: that can be recorded.

#include <ATen/ATen.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include <array>
#include <atomic>
#include <memory>

#include "guarded.h"
#include "norm.h"
#include "norm_launch.h"

namespace orchestrator {
namespace {

using at::Tensor;

using Loaded = std::array<cudaKernel_t, NUM_KERNELS>;

constexpr int MAX_GPUS = 64;
std::array<std::atomic<const Loaded*>, MAX_GPUS> loaded_of_gpu{};

// Of one pass: the device is current while it lives.
class Launcher {
 public:
  explicit Launcher(const Tensor& x)
      : guard_(x.device()), stream_(c10::cuda::getCurrentCUDAStream(x.get_device())), loaded_(nullptr) {
    if (x.get_device() < MAX_GPUS) loaded_ = loaded_of_gpu[x.get_device()].load(std::memory_order_acquire);
    TORCH_CHECK(loaded_, "fused batch normalisation: its kernels were not loaded for ", x.device());
  }

  void operator()(int kernel, Grid grid, const Pass& pass) const {
    void* arguments[] = {const_cast<Pass*>(&pass)};
    dim3 blocks(static_cast<unsigned>(grid.columns), static_cast<unsigned>(grid.rows));
    cudaError_t error = cudaLaunchKernel(reinterpret_cast<const void*>((*loaded_)[kernel]), blocks,
                                         dim3(static_cast<unsigned>(grid.threads)), arguments, 0, stream_.stream());
    if (error != cudaSuccess) static_cast<void>(cudaGetLastError());  // as in `check`
    TORCH_CHECK(error == cudaSuccess, "cannot launch ", KERNEL_NAMES[kernel], " with ", grid.columns, " x ", grid.rows,
                " blocks of ", grid.threads, " threads: ", cudaGetErrorString(error));
  }

 private:
  c10::cuda::CUDAGuard guard_;
  c10::cuda::CUDAStream stream_;
  const Loaded* loaded_;
};

bool is_aligned(const Tensor& tensor) {
  return !tensor.defined() || reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % 16 == 0;
}

// Of a matrix whose columns are `x`'s channels.
Plan plan_for(const Tensor& x, bool aligned, int blocks) {
  bool bf16 = x.scalar_type() == at::kBFloat16;
  TORCH_CHECK(bf16 || x.scalar_type() == at::kFloat, "fused batch normalisation is of f32 and bf16, not of ",
              x.scalar_type());
  TORCH_CHECK(x.numel() > 0, "fused batch normalisation of no images: ", x.sizes());
  return plan(x.numel() / x.size(1), x.size(1), bf16, aligned && is_aligned(x), blocks);
}

Pass pass_of(const Plan& plan, const Tensor& x, const Tensor& saved) {
  Pass pass{};
  describe(plan, x.numel() / x.size(1), x.size(1), pass);
  pass.x = x.const_data_ptr();
  pass.saved = saved.data_ptr<float>();
  return pass;
}

const void* read(const Tensor& tensor) { return tensor.defined() ? tensor.const_data_ptr() : nullptr; }

// Kept by the caller until the pass is queued; afterwards the allocator gives it to later work of the same stream only.
Tensor partials_of(const Plan& plan, const Tensor& saved) {
  return at::empty({num_partials(plan, saved.size(1))}, saved.options());
}

void statistics(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& running_mean,
                const Tensor& running_var, double momentum, double eps, Tensor& saved) {
  Launcher launcher(x);
  Plan plan = plan_for(x, true, FORWARD_BLOCKS);
  Tensor partials = partials_of(plan, saved);
  Pass pass = pass_of(plan, x, saved);
  pass.weight = weight.const_data_ptr<float>();
  pass.bias = bias.const_data_ptr<float>();
  pass.running_mean = running_mean.defined() ? running_mean.data_ptr<float>() : nullptr;
  pass.running_var = running_mean.defined() ? running_var.data_ptr<float>() : nullptr;
  pass.partials = partials.data_ptr<float>();
  pass.momentum = static_cast<float>(momentum);
  pass.eps = static_cast<float>(eps);
  launch_statistics(plan, pass, launcher);
}

void apply(const Tensor& x, const Tensor& saved, const Tensor& residual, bool relu, Tensor& y) {
  Launcher launcher(x);
  Plan plan = plan_for(x, is_aligned(residual) && is_aligned(y), FORWARD_BLOCKS);
  Pass pass = pass_of(plan, x, saved);
  pass.residual = read(residual);
  pass.out = y.data_ptr();
  pass.relu = relu;
  launch_apply(plan, pass, launcher);
}

void backward(const Tensor& gradient, const Tensor& x, const Tensor& y, const Tensor& saved, bool relu, Tensor& grad_x,
              Tensor& grad_residual, Tensor& grad_weight, Tensor& grad_bias) {
  Launcher launcher(x);
  TORCH_CHECK(y.defined() == grad_residual.defined(), "y is kept where something was added, and only there");
  TORCH_CHECK(gradient.scalar_type() == x.scalar_type(), "the gradient is ", gradient.scalar_type(),
              ", the images are ", x.scalar_type());
  Plan plan = plan_for(x, is_aligned(gradient) && is_aligned(y) && is_aligned(grad_x) && is_aligned(grad_residual),
                       BACKWARD_BLOCKS);
  Tensor partials = partials_of(plan, saved);
  Pass pass = pass_of(plan, x, saved);
  pass.gradient = gradient.const_data_ptr();
  pass.y = read(y);
  pass.out = grad_x.data_ptr();
  pass.grad_residual = grad_residual.defined() ? grad_residual.data_ptr() : nullptr;
  pass.partials = partials.data_ptr<float>();
  pass.grad_weight = grad_weight.data_ptr<float>();
  pass.grad_bias = grad_bias.data_ptr<float>();
  pass.relu = relu;
  launch_backward(plan, pass, launcher);
}

constexpr NormKernels kernels{statistics, apply, backward};

void check(cudaError_t error, const char* what, const char* name) {
  // kept by the runtime, it would be reported by libtorch's next launch, which it has nothing to do with
  if (error != cudaSuccess) static_cast<void>(cudaGetLastError());
  TORCH_CHECK(error == cudaSuccess, what, name, ": ", cudaGetErrorString(error));
}

}  // namespace
}  // namespace orchestrator

extern "C" {

// As in `sm_90`: 90.
char* cuda_library_architecture(int8_t index, int32_t* architecture) {
  return orchestrator::guarded([&] {
    int major = 0, minor = 0;
    cudaError_t error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index);
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, index);
    orchestrator::check(error, "cannot ask for the GPU's ", "architecture");
    *architecture = 10 * major + minor;
  });
}

// Loads machine code of norm_kernels.cu, made for this GPU, for good; once per GPU. `code` is not needed afterwards.
char* cuda_library_load_norm(int8_t index, const void* code) {
  using namespace orchestrator;
  return guarded([&] {
    TORCH_CHECK(index >= 0 && index < MAX_GPUS, "cuda:", static_cast<int>(index), " is beyond what this is made for");
    c10::cuda::CUDAGuard guard(static_cast<c10::DeviceIndex>(index));
    cudaLibrary_t library = nullptr;
    check(cudaLibraryLoadData(&library, code, nullptr, nullptr, 0, nullptr, nullptr, 0), "cannot load the kernels", "");
    auto loaded = std::make_unique<Loaded>();
    for (int kernel = 0; kernel < NUM_KERNELS; ++kernel) {
      const char* name = KERNEL_NAMES[kernel];
      check(cudaLibraryGetKernel(&(*loaded)[kernel], library, name), "cannot find ", name);
      // asking for its attributes loads a kernel that would else be loaded when it is first launched
      cudaFuncAttributes attributes;
      const void* function = reinterpret_cast<const void*>((*loaded)[kernel]);
      check(cudaFuncGetAttributes(&attributes, function), "cannot load ", name);
    }
    loaded_of_gpu[index].store(loaded.release(), std::memory_order_release);
  });
}

const orchestrator::NormKernels* cuda_library_norm_kernels() { return &orchestrator::kernels; }
}
