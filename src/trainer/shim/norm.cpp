// The autograd node of norm.h. Declared in src/network/nn/norm.rs.

#include "norm.h"

#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>

#include "guarded.h"

namespace orchestrator {

const NormKernels* norm_on_cuda = nullptr;

namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// What a node may be called without must not be an undefined tensor.
using Maybe = std::optional<Tensor>;

const NormKernels& kernels(const Tensor& x) {
  if (x.device().is_cpu()) return norm_on_cpu;
  TORCH_CHECK(norm_on_cuda, "fused batch normalisation: the CUDA library of the shim is not open");
  return *norm_on_cuda;
}

// Dense with channels innermost, which for [batch, channels] is every dense tensor.
Tensor channels_innermost(const Tensor& x) {
  return x.contiguous(x.dim() == 4 ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous);
}

struct Norm : torch::autograd::Function<Norm> {
  static Tensor forward(AutogradContext* ctx, const Tensor& images, const Tensor& weight, const Tensor& bias,
                        const Maybe& moving_mean, const Maybe& moving_var, const Maybe& shortcut, double momentum,
                        double eps, bool relu) {
    Tensor x = channels_innermost(images);
    Tensor residual = shortcut ? channels_innermost(*shortcut) : Tensor();
    Tensor saved = at::empty({4, x.size(1)}, weight.options());
    Tensor y = at::empty_like(x);
    kernels(x).statistics(x, weight, bias, moving_mean.value_or(Tensor()), moving_var.value_or(Tensor()), momentum, eps,
                          saved);
    kernels(x).apply(x, saved, residual, relu, y);
    // the sign of y follows from x alone where nothing was added
    ctx->save_for_backward({x, saved, residual.defined() ? y : Tensor()});
    ctx->saved_data["relu"] = relu;
    return y;
  }

  static variable_list backward(AutogradContext* ctx, variable_list gradients) {
    auto saved_tensors = ctx->get_saved_variables();
    const Tensor &x = saved_tensors[0], &saved = saved_tensors[1], &y = saved_tensors[2];
    Tensor gradient = channels_innermost(gradients[0]);
    Tensor grad_x = at::empty_like(x);
    Tensor grad_residual = y.defined() ? at::empty_like(x) : Tensor();
    Tensor grad_weight = at::empty({x.size(1)}, saved.options()), grad_bias = at::empty_like(grad_weight);
    kernels(x).backward(gradient, x, y, saved, ctx->saved_data["relu"].toBool(), grad_x, grad_residual, grad_weight,
                        grad_bias);
    return {grad_x, grad_weight, grad_bias, Tensor(), Tensor(), grad_residual, Tensor(), Tensor(), Tensor()};
  }
};

// With the moving statistics, outside of autograd.
Tensor evaluate(const Tensor& images, const Tensor& weight, const Tensor& bias, const Tensor& moving_mean,
                const Tensor& moving_var, const Maybe& shortcut, double eps, bool relu) {
  Tensor x = channels_innermost(images);
  Tensor residual = shortcut ? channels_innermost(*shortcut) : Tensor();
  Tensor inverse_std = (moving_var + eps).rsqrt();
  Tensor scale = weight * inverse_std;
  Tensor saved = at::stack({moving_mean, inverse_std, scale, bias - moving_mean * scale});
  Tensor y = at::empty_like(x);
  kernels(x).apply(x, saved, residual, relu, y);
  return y;
}

Maybe maybe(const Tensor* tensor) { return tensor ? Maybe(*tensor) : std::nullopt; }

}  // namespace
}  // namespace orchestrator

extern "C" {

// `moving`: null, or mean and variance; `residual`: null, or of the shape and dtype of x, and `relu` is true then.
char* shim_norm_train(at::Tensor* x, at::Tensor* weight, at::Tensor* bias, at::Tensor* moving_mean, at::Tensor* moving_var,
                      at::Tensor* residual, double momentum, double eps, bool relu, at::Tensor** result) {
  using namespace orchestrator;
  return guarded([&] {
    *result = new at::Tensor(Norm::apply(*x, *weight, *bias, maybe(moving_mean), maybe(moving_var),
                                         maybe(residual), momentum, eps, relu));
  });
}

char* shim_norm_evaluate(at::Tensor* x, at::Tensor* weight, at::Tensor* bias, at::Tensor* moving_mean,
                         at::Tensor* moving_var, at::Tensor* residual, double eps, bool relu, at::Tensor** result) {
  using namespace orchestrator;
  return guarded([&] {
    c10::AutoGradMode guard(false);
    *result = new at::Tensor(
        evaluate(*x, *weight, *bias, *moving_mean, *moving_var, maybe(residual), eps, relu));
  });
}

void shim_register_norm_on_cuda(const orchestrator::NormKernels* kernels) { orchestrator::norm_on_cuda = kernels; }
}
