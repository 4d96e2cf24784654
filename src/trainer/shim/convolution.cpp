// Convolution on the CPU as a product of matrices, where that beats libtorch's: see src/network/nn/convolution.rs, which decides.
//
// Images have channels innermost in memory, and so have kernels: [outputs, kernel, kernel, inputs]. Then each place of
// the output sees `kernel` stretches of the image, which are copied one after the other into a row of `columns`, and
//   output [places, outputs] = columns [places, kernel * kernel * inputs] x kernels transposed.
// The gradient of the kernels is gradient transposed x columns, that of the images gradient x kernels, folded back.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <array>
#include <optional>
#include <cstddef>
#include <vector>

#include "convolution.h"
#include "guarded.h"
#include "lanes.h"

namespace orchestrator {

// Which of the three passes are products made here; the others are libtorch's. As in src/network/nn/convolution.rs, which
// asserts the same.
struct ProductPasses {
  bool forward, images, kernels;
};
static_assert(sizeof(ProductPasses) == 3 && offsetof(ProductPasses, images) == 1 && offsetof(ProductPasses, kernels) == 2);

namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Numbers that make a piece worth a thread.
constexpr int64_t PIECE = 32768;

Tensor as_matrix(const Tensor& images) {
  return images.permute({0, 2, 3, 1}).reshape({-1, images.size(1)});
}

// Images, or kernels, to be written. What an operation returns must not be a view: autograd would forbid changing it in
// place.
Tensor empty_images(int64_t batch, int64_t channels, int64_t height, int64_t width, const at::TensorOptions& options) {
  return at::empty({batch, channels, height, width}, options, at::MemoryFormat::ChannelsLast);
}

// Views of those, to write products to: a row for each pixel, and a row for each image or kernel.
Tensor rows_of_pixels(const Tensor& images) { return images.permute({0, 2, 3, 1}).view({-1, images.size(1)}); }
Tensor rows_of_kernels(const Tensor& weight) { return weight.permute({0, 2, 3, 1}).view({weight.size(0), -1}); }

Tensor kernels_as_matrix(const Tensor& weight) {
  return weight.permute({0, 2, 3, 1}).reshape({weight.size(0), -1});
}

template <typename T>
void fill_columns(const T* x, T* columns, const Geometry& on) {
  const int64_t row_of_image = on.width * on.inputs;
  at::parallel_for(0, on.places(), std::max<int64_t>(1, PIECE / on.seen()), [&](int64_t begin, int64_t end) {
    for (int64_t place = begin; place < end; ++place) {
      const int64_t left = place % on.out_width * on.stride - on.padding;
      const int64_t top = place / on.out_width % on.out_height * on.stride - on.padding;
      const T* image = x + place / (on.out_width * on.out_height) * on.height * row_of_image;
      const int64_t first = std::max<int64_t>(0, -left), last = std::max(first, std::min(on.kernel, on.width - left));
      T* to = columns + place * on.seen();
      for (int64_t y = top; y < top + on.kernel; ++y, to += on.kernel * on.inputs) {
        if (y < 0 || y >= on.height || first == last) {
          memset(static_cast<void*>(to), 0, sizeof(T) * on.kernel * on.inputs);
          continue;
        }
        memset(static_cast<void*>(to), 0, sizeof(T) * first * on.inputs);
        memcpy(to + first * on.inputs, image + y * row_of_image + (left + first) * on.inputs,
               sizeof(T) * (last - first) * on.inputs);
        memset(static_cast<void*>(to + last * on.inputs), 0, sizeof(T) * (on.kernel - last) * on.inputs);
      }
    }
  });
}

Tensor columns_of(const Tensor& x, const Geometry& on) {
  if (on.is_pointwise()) return as_matrix(x);
  Tensor columns = at::empty({on.places(), on.seen()}, x.options());
  if (x.scalar_type() == at::kBFloat16) {
    fill_columns(static_cast<const Bf16*>(x.data_ptr()), static_cast<Bf16*>(columns.data_ptr()), on);
  } else {
    fill_columns(x.const_data_ptr<float>(), columns.data_ptr<float>(), on);
  }
  return columns;
}

// Adds to one pixel what its places saw of it.
template <typename T>
ONE_PASS void fold_pixel(const T* columns, T* to, float* sum, const Geometry& on, int64_t image, int64_t y, int64_t x) {
  for (int64_t c = 0; c < on.inputs; ++c) sum[c] = 0.0f;
  for (int64_t down = 0; down < on.kernel; ++down) {
    const int64_t from_top = y + on.padding - down;
    if (from_top < 0 || from_top % on.stride || from_top / on.stride >= on.out_height) continue;
    for (int64_t across = 0; across < on.kernel; ++across) {
      const int64_t from_left = x + on.padding - across;
      if (from_left < 0 || from_left % on.stride || from_left / on.stride >= on.out_width) continue;
      const int64_t place = (image * on.out_height + from_top / on.stride) * on.out_width + from_left / on.stride;
      const T* from = columns + place * on.seen() + (down * on.kernel + across) * on.inputs;
      int64_t c = 0;
      for (; c + LANES <= on.inputs; c += LANES) store(sum + c, load(sum + c) + load(from + c));
      for (; c < on.inputs; ++c) sum[c] += load_one(from + c);
    }
  }
  int64_t c = 0;
  for (; c + LANES <= on.inputs; c += LANES) store(to + c, load(sum + c));
  for (; c < on.inputs; ++c) store_one(to + c, sum[c]);
}

template <typename T>
ONE_PASS void fold_pixels(const T* columns, T* gradient, float* sum, const Geometry& on, int64_t begin, int64_t end) {
  for (int64_t pixel = begin; pixel < end; ++pixel) {
    const int64_t x = pixel % on.width, y = pixel / on.width % on.height, image = pixel / (on.width * on.height);
    fold_pixel(columns, gradient + pixel * on.inputs, sum, on, image, y, x);
  }
}

EACH_MACHINE void fold_f32(const float* columns, float* gradient, float* sum, const Geometry& on, int64_t begin, int64_t end) {
  fold_pixels(columns, gradient, sum, on, begin, end);
}

EACH_MACHINE void fold_bf16(const Bf16* columns, Bf16* gradient, float* sum, const Geometry& on, int64_t begin, int64_t end) {
  fold_pixels(columns, gradient, sum, on, begin, end);
}

// The gradient of the images: that of the columns, folded back.
Tensor gradient_of_images(const Tensor& gradient_matrix, const Tensor& weight, const Geometry& on) {
  Tensor gradient = empty_images(on.batch, on.inputs, on.height, on.width, gradient_matrix.options());
  if (on.is_pointwise()) {
    Tensor rows = rows_of_pixels(gradient);
    at::mm_out(rows, gradient_matrix, kernels_as_matrix(weight));
    return gradient;
  }
  const Tensor columns = at::mm(gradient_matrix, kernels_as_matrix(weight));
  const int64_t pixels = on.batch * on.height * on.width;
  at::parallel_for(0, pixels, std::max<int64_t>(1, PIECE / on.seen()), [&](int64_t begin, int64_t end) {
    std::vector<float> sum(static_cast<size_t>(on.inputs));
    if (columns.scalar_type() == at::kBFloat16) {
      fold_bf16(static_cast<const Bf16*>(columns.data_ptr()), static_cast<Bf16*>(gradient.data_ptr()), sum.data(), on,
                begin, end);
    } else {
      fold_f32(columns.const_data_ptr<float>(), gradient.data_ptr<float>(), sum.data(), on, begin, end);
    }
  });
  return gradient;
}

Tensor gradient_of_kernels(const Tensor& gradient_matrix, const Tensor& x, const Geometry& on) {
  Tensor gradient = empty_images(on.outputs, on.inputs, on.kernel, on.kernel, x.options());
  Tensor rows = rows_of_kernels(gradient);
  at::mm_out(rows, gradient_matrix.t(), columns_of(x, on));
  return gradient;
}

struct Convolution : torch::autograd::Function<Convolution> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, int64_t stride,
                        int64_t padding, bool by_product, bool images_by_product, bool kernels_by_product) {
    ctx->save_for_backward({x, weight});
    ctx->saved_data["bias"] = bias.has_value();
    ctx->saved_data["stride"] = stride;
    ctx->saved_data["padding"] = padding;
    ctx->saved_data["images"] = images_by_product;
    ctx->saved_data["kernels"] = kernels_by_product;
    if (!by_product) return at::conv2d(x, weight, bias, stride, padding);
    const Geometry on(x, weight, stride, padding);
    const Tensor columns = columns_of(x, on), kernels = kernels_as_matrix(weight).t();
    Tensor output = empty_images(on.batch, on.outputs, on.out_height, on.out_width, x.options());
    Tensor rows = rows_of_pixels(output);
    if (bias) {
      at::addmm_out(rows, *bias, columns, kernels);
    } else {
      at::mm_out(rows, columns, kernels);
    }
    return output;
  }

  static variable_list backward(AutogradContext* ctx, variable_list gradients) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &weight = saved[1];
    const int64_t stride = ctx->saved_data["stride"].toInt(), padding = ctx->saved_data["padding"].toInt();
    const bool images_by_product = ctx->saved_data["images"].toBool();
    const bool kernels_by_product = ctx->saved_data["kernels"].toBool();
    const Geometry on(x, weight, stride, padding);
    const Tensor gradient = gradients[0].contiguous(at::MemoryFormat::ChannelsLast);
    const Tensor matrix = as_matrix(gradient);
    const bool images = ctx->needs_input_grad(0), kernels = ctx->needs_input_grad(1);
    Tensor of_images, of_kernels, of_bias;
    if (images && images_by_product) of_images = gradient_of_images(matrix, weight, on);
    if (kernels && kernels_by_product) {
      of_kernels = has_kernel_gradient(x, on) ? kernel_gradient(gradient, x, on) : gradient_of_kernels(matrix, x, on);
    }
    if (ctx->saved_data["bias"].toBool()) of_bias = matrix.sum(0);
    const std::array<bool, 3> left{images && !images_by_product, kernels && !kernels_by_product, false};
    if (left[0] || left[1]) {
      auto [own_images, own_kernels, none] = at::convolution_backward(
          gradient, x, weight, at::OptionalIntArrayRef(), {stride, stride}, {padding, padding}, {1, 1}, false, {0, 0}, 1, left);
      if (left[0]) of_images = own_images;
      if (left[1]) of_kernels = own_kernels;
    }
    return {of_images, of_kernels, of_bias, Tensor(), Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

}  // namespace
}  // namespace orchestrator

extern "C" {

// x [batch, inputs, height, width] and weight [outputs, inputs, kernel, kernel] with channels innermost, of one dtype, f32
// or bf16; bias: null or [outputs].
char* shim_convolution(at::Tensor* x, at::Tensor* weight, at::Tensor* bias, int64_t stride, int64_t padding,
                       orchestrator::ProductPasses passes, at::Tensor** result) {
  using namespace orchestrator;
  return guarded([&] {
    *result = new at::Tensor(Convolution::apply(*x, *weight, bias ? std::optional<at::Tensor>(*bias) : std::nullopt, stride, padding, passes.forward,
                                                passes.images, passes.kernels));
  });
}
}
