// Convolution on the CPU: the shapes of one, and the gradient of its kernels by our own product of matrices.

#pragma once

#include <ATen/ATen.h>

namespace orchestrator {

// A square kernel with as many zeros on all sides of the image, which a row or column of places may not see beyond.
struct Geometry {
  int64_t batch, inputs, height, width;
  int64_t outputs, kernel, stride, padding;
  int64_t out_height, out_width;

  Geometry(const at::Tensor& x, const at::Tensor& weight, int64_t stride, int64_t padding)
      : batch(x.size(0)), inputs(x.size(1)), height(x.size(2)), width(x.size(3)), outputs(weight.size(0)),
        kernel(weight.size(2)), stride(stride), padding(padding),
        out_height((height + 2 * padding - kernel) / stride + 1), out_width((width + 2 * padding - kernel) / stride + 1) {}

  int64_t places() const { return batch * out_height * out_width; }
  int64_t seen() const { return kernel * kernel * inputs; }
  // Every pixel is one place: the image itself is the columns.
  bool is_pointwise() const { return kernel == 1 && stride == 1 && padding == 0; }
};

// Whether `kernel_gradient` can be called, and is not slower than a product of matrices: bf16, channels in blocks of 32, and a
// processor with `avx512_bf16`; where it has `amx_bf16`, images of a few pixels are left out.
bool has_kernel_gradient(const at::Tensor& x, const Geometry& on);

// gradient [batch, outputs, out_height, out_width] and x [batch, inputs, height, width], bf16 with channels innermost.
// [outputs, inputs, kernel, kernel] in bf16, channels innermost; sums are f32. The same bits with any number of threads.
at::Tensor kernel_gradient(const at::Tensor& gradient, const at::Tensor& x, const Geometry& on);

}  // namespace orchestrator
