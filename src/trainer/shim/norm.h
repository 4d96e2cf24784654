// Batch normalisation with what follows it in a residual network, in one operation: y = relu(norm(x) + residual).
//
// norm.cpp is the autograd node; the arithmetic is a set of kernels per device: norm_cpu.cpp, norm_cuda.cpp. Images are
// [batch, channels, height, width] with channels innermost in memory: seen as a matrix of `rows` (batch x height x width)
// by `channels`. Images and their gradients are f32 or bf16, everything per channel is f32.

#pragma once

#include <ATen/ATen.h>

namespace orchestrator {

// Rows of `saved`, an f32 tensor [4, channels] that a pass forward leaves for the pass back.
// With them norm(x) = x * SCALE + SHIFT, where SCALE = weight * INVERSE_STD and SHIFT = bias - MEAN * SCALE.
enum Saved { MEAN = 0, INVERSE_STD = 1, SCALE = 2, SHIFT = 3 };

struct NormKernels {
  // Fills `saved` from the statistics of x: biased variance, INVERSE_STD = 1 / sqrt(variance + eps). Where the moving
  // statistics are defined, they become (1 - momentum) * themselves + momentum * the batch's, the variance unbiased
  // (times rows / (rows - 1)); rows > 1 then.
  void (*statistics)(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, const at::Tensor& moving_mean,
                     const at::Tensor& moving_var, double momentum, double eps, at::Tensor& saved);
  // y = x * SCALE + SHIFT, plus `residual` where it is defined, then ReLU if `relu`; what is not a number stays so.
  void (*apply)(const at::Tensor& x, const at::Tensor& saved, const at::Tensor& residual, bool relu, at::Tensor& y);
  // With g = gradient where y > 0 (everywhere without `relu`), xhat = (x - MEAN) * INVERSE_STD and n = rows:
  // grad_bias = sum(g), grad_weight = sum(g * xhat), grad_x = SCALE * (g - grad_bias / n - xhat * grad_weight / n),
  // grad_residual = g. `y` is defined where `grad_residual` is; else y > 0 is x * SCALE + SHIFT > 0, computed as `apply`
  // does. Outputs are allocated by the caller, dense with channels innermost, of the dtypes of x and of f32.
  void (*backward)(const at::Tensor& gradient, const at::Tensor& x, const at::Tensor& y, const at::Tensor& saved, bool relu,
                   at::Tensor& grad_x, at::Tensor& grad_residual, at::Tensor& grad_weight, at::Tensor& grad_bias);
};

extern const NormKernels norm_on_cpu;

// Of GPUs; null until the CUDA library of the shim is open (shim_register_norm_on_cuda).
extern const NormKernels* norm_on_cuda;

}  // namespace orchestrator
