// The kernels of norm.h on the CPU.
//
// Sums are made of as many parts as the matrix asks for, not as many as there are threads, and added in their order: the
// bits do not depend on the number of threads. Sums go down the rows of a piece, a cache line of bf16 at a time, and ask for
// the same line of the next piece meanwhile: no hardware foresees such jumps.

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "lanes.h"
#include "norm.h"

namespace orchestrator {
namespace {

using at::Tensor;

// Numbers that make a part worth a thread.
constexpr int64_t PART = 32768;
constexpr int64_t MOST_PARTS = 16;
// Numbers of a piece: it and the next one of all that a loop reads stay in a first-level cache.
constexpr int64_t PIECE = 2048;
// Vectors side by side: a cache line of bf16.
constexpr int STRIPS = 2;

struct Matrix {
  int64_t rows, channels;

  explicit Matrix(const Tensor& x) : rows(x.numel() / x.size(1)), channels(x.size(1)) {}

  int64_t num_parts() const {
    int64_t parts = 1;
    while (parts < MOST_PARTS && parts * 2 * PART <= rows * channels && parts * 2 <= rows) parts *= 2;
    return parts;
  }

  int64_t rows_of_piece() const { return std::clamp<int64_t>(PIECE / channels, 4, 64); }
};

// f(first row, one past the last row, index) for each part.
template <typename Body>
void for_each_part(const Matrix& matrix, Body body) {
  const int64_t parts = matrix.num_parts();
  at::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      body(matrix.rows * part / parts, matrix.rows * (part + 1) / parts, part);
    }
  });
}

// f(first row, one past the last row): some rows, of as many threads as there are.
template <typename Body>
void for_rows(const Matrix& matrix, Body body) {
  at::parallel_for(0, matrix.rows, std::max<int64_t>(1, PART / matrix.channels), body);
}

// Two sums per channel over the rows of a part.
struct Sums {
  float *first, *second;
};

// The line that begins at the vector of number `strip`, if one does.
template <typename T>
ONE_PASS void fetch(const T* from, int strip) {
  if (strip * LANES * sizeof(T) % 64 == 0) __builtin_prefetch(from);
}

// --- statistics: sums of x - origin and of its square -----------------------------------------------------------------

template <int strips, typename T>
ONE_PASS void sum_statistics_down(const T* x, const float* origin, Sums sums, int64_t channels, int64_t c, int64_t top,
                                  int64_t bottom) {
  const int64_t next = (bottom - top) * channels;
  Floats from[strips], first[strips], second[strips];
  for (int s = 0; s < strips; ++s) {
    const int64_t at = c + s * LANES;
    from[s] = load(origin + at), first[s] = load(sums.first + at), second[s] = load(sums.second + at);
  }
  for (int64_t row = top; row < bottom; ++row) {
#pragma GCC unroll 2
    for (int s = 0; s < strips; ++s) {
      const int64_t at = row * channels + c + s * LANES;
      fetch(x + at + next, s);
      const Floats value = load(x + at) - from[s];
      first[s] += value;
      second[s] += value * value;
    }
  }
  for (int s = 0; s < strips; ++s) {
    store(sums.first + c + s * LANES, first[s]);
    store(sums.second + c + s * LANES, second[s]);
  }
}

template <typename T>
ONE_PASS void sum_statistics(const T* x, const float* origin, Sums sums, int64_t channels, int64_t begin, int64_t end,
                             int64_t piece) {
  for (int64_t top = begin; top < end; top += piece) {
    const int64_t bottom = std::min(top + piece, end);
    int64_t c = 0;
    for (; c + STRIPS * LANES <= channels; c += STRIPS * LANES) {
      sum_statistics_down<STRIPS>(x, origin, sums, channels, c, top, bottom);
    }
    for (; c + LANES <= channels; c += LANES) sum_statistics_down<1>(x, origin, sums, channels, c, top, bottom);
    for (; c < channels; ++c) {
      for (int64_t row = top; row < bottom; ++row) {
        const float value = load_one(x + row * channels + c) - origin[c];
        sums.first[c] += value;
        sums.second[c] += value * value;
      }
    }
  }
}

EACH_MACHINE void sum_statistics_f32(const float* x, const float* origin, Sums sums, int64_t channels, int64_t begin,
                                     int64_t end, int64_t piece) {
  sum_statistics(x, origin, sums, channels, begin, end, piece);
}

EACH_MACHINE void sum_statistics_bf16(const Bf16* x, const float* origin, Sums sums, int64_t channels, int64_t begin,
                                      int64_t end, int64_t piece) {
  sum_statistics(x, origin, sums, channels, begin, end, piece);
}

// --- apply ------------------------------------------------------------------------------------------------------------

// `saved` as pointers.
struct PerChannel {
  const float *mean, *inverse_std, *scale, *shift;

  explicit PerChannel(const Tensor& saved) {
    const float* data = saved.const_data_ptr<float>();
    const int64_t channels = saved.size(1);
    mean = data + MEAN * channels;
    inverse_std = data + INVERSE_STD * channels;
    scale = data + SCALE * channels;
    shift = data + SHIFT * channels;
  }
};

// What is not a number is not below zero, and stays.
ONE_PASS Floats relu_of(Floats value) { return value <= 0.0f ? Floats{} : value; }
ONE_PASS float relu_of(float value) { return value <= 0.0f ? 0.0f : value; }

template <typename T, bool added, bool relu>
ONE_PASS void apply_rows(const T* x, const T* residual, T* y, const PerChannel& per, int64_t channels, int64_t begin,
                         int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const int64_t start = row * channels;
    int64_t c = 0;
    for (; c + LANES <= channels; c += LANES) {
      Floats value = load(x + start + c) * load(per.scale + c) + load(per.shift + c);
      if (added) value += load(residual + start + c);
      store(y + start + c, relu ? relu_of(value) : value);
    }
    for (; c < channels; ++c) {
      float value = load_one(x + start + c) * per.scale[c] + per.shift[c];
      if (added) value += load_one(residual + start + c);
      store_one(y + start + c, relu ? relu_of(value) : value);
    }
  }
}

template <typename T>
ONE_PASS void apply_any(const T* x, const T* residual, bool relu, T* y, const PerChannel& per, int64_t channels,
                        int64_t begin, int64_t end) {
  if (residual && relu) return apply_rows<T, true, true>(x, residual, y, per, channels, begin, end);
  if (residual) return apply_rows<T, true, false>(x, residual, y, per, channels, begin, end);
  if (relu) return apply_rows<T, false, true>(x, residual, y, per, channels, begin, end);
  apply_rows<T, false, false>(x, residual, y, per, channels, begin, end);
}

EACH_MACHINE void apply_f32(const float* x, const float* residual, bool relu, float* y, const PerChannel& per,
                            int64_t channels, int64_t begin, int64_t end) {
  apply_any(x, residual, relu, y, per, channels, begin, end);
}

EACH_MACHINE void apply_bf16(const Bf16* x, const Bf16* residual, bool relu, Bf16* y, const PerChannel& per,
                             int64_t channels, int64_t begin, int64_t end) {
  apply_any(x, residual, relu, y, per, channels, begin, end);
}

// --- backward ---------------------------------------------------------------------------------------------------------

template <typename T>
struct Gradients {
  const T *gradient, *x, *y;
  T *grad_x, *grad_residual;
};

// Where the gradient passes.
enum class Gate {
  OPEN,    // no ReLU
  FROM_X,  // the sign of the output follows from x
  FROM_Y,  // something was added
};

template <int strips, typename T, Gate gate>
ONE_PASS void sum_down(const Gradients<T>& on, const PerChannel& per, Sums sums, int64_t channels, int64_t c, int64_t top,
                       int64_t bottom) {
  const int64_t next = (bottom - top) * channels;
  Floats mean[strips], scale[strips], shift[strips], first[strips], second[strips];
  for (int s = 0; s < strips; ++s) {
    const int64_t at = c + s * LANES;
    mean[s] = load(per.mean + at), scale[s] = load(per.scale + at), shift[s] = load(per.shift + at);
    first[s] = load(sums.first + at), second[s] = load(sums.second + at);
  }
  for (int64_t row = top; row < bottom; ++row) {
#pragma GCC unroll 2
    for (int s = 0; s < strips; ++s) {
      const int64_t at = row * channels + c + s * LANES;
      fetch(on.x + at + next, s), fetch(on.gradient + at + next, s);
      const Floats x = load(on.x + at);
      Floats gradient = load(on.gradient + at);
      if (gate == Gate::FROM_X) gradient = x * scale[s] + shift[s] > 0.0f ? gradient : Floats{};
      if (gate == Gate::FROM_Y) {
        fetch(on.y + at + next, s);
        gradient = load(on.y + at) > 0.0f ? gradient : Floats{};
        store(on.grad_residual + at, gradient);
      }
      first[s] += gradient;
      second[s] += gradient * (x - mean[s]);
    }
  }
  for (int s = 0; s < strips; ++s) {
    store(sums.first + c + s * LANES, first[s]);
    store(sums.second + c + s * LANES, second[s]);
  }
}

template <typename T, Gate gate>
ONE_PASS void sum_rows(const Gradients<T>& on, const PerChannel& per, Sums sums, int64_t channels, int64_t begin,
                       int64_t end, int64_t piece) {
  for (int64_t top = begin; top < end; top += piece) {
    const int64_t bottom = std::min(top + piece, end);
    int64_t c = 0;
    for (; c + STRIPS * LANES <= channels; c += STRIPS * LANES) {
      sum_down<STRIPS, T, gate>(on, per, sums, channels, c, top, bottom);
    }
    for (; c + LANES <= channels; c += LANES) sum_down<1, T, gate>(on, per, sums, channels, c, top, bottom);
    for (; c < channels; ++c) {
      for (int64_t row = top; row < bottom; ++row) {
        const int64_t at = row * channels + c;
        const float x = load_one(on.x + at);
        float gradient = load_one(on.gradient + at);
        if (gate == Gate::FROM_X) gradient = x * per.scale[c] + per.shift[c] > 0.0f ? gradient : 0.0f;
        if (gate == Gate::FROM_Y) {
          gradient = load_one(on.y + at) > 0.0f ? gradient : 0.0f;
          store_one(on.grad_residual + at, gradient);
        }
        sums.first[c] += gradient;
        sums.second[c] += gradient * (x - per.mean[c]);
      }
    }
  }
}

// grad_x = scale * gradient + slope * (x - mean) + offset
struct Line {
  const float *slope, *offset;
};

template <typename T, Gate gate>
ONE_PASS void propagate_rows(const Gradients<T>& on, const PerChannel& per, const Line& line, int64_t channels,
                             int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const int64_t start = row * channels;
    int64_t c = 0;
    for (; c + LANES <= channels; c += LANES) {
      const Floats x = load(on.x + start + c), scale = load(per.scale + c);
      Floats gradient = load((gate == Gate::FROM_Y ? on.grad_residual : on.gradient) + start + c);
      if (gate == Gate::FROM_X) gradient = x * scale + load(per.shift + c) > 0.0f ? gradient : Floats{};
      store(on.grad_x + start + c,
            scale * gradient + (load(line.slope + c) * (x - load(per.mean + c)) + load(line.offset + c)));
    }
    for (; c < channels; ++c) {
      const float x = load_one(on.x + start + c), scale = per.scale[c];
      float gradient = load_one((gate == Gate::FROM_Y ? on.grad_residual : on.gradient) + start + c);
      if (gate == Gate::FROM_X) gradient = x * scale + per.shift[c] > 0.0f ? gradient : 0.0f;
      store_one(on.grad_x + start + c, scale * gradient + (line.slope[c] * (x - per.mean[c]) + line.offset[c]));
    }
  }
}

template <typename T>
ONE_PASS void sum_any(Gate gate, const Gradients<T>& on, const PerChannel& per, Sums sums, int64_t channels, int64_t begin,
                      int64_t end, int64_t piece) {
  if (gate == Gate::OPEN) return sum_rows<T, Gate::OPEN>(on, per, sums, channels, begin, end, piece);
  if (gate == Gate::FROM_X) return sum_rows<T, Gate::FROM_X>(on, per, sums, channels, begin, end, piece);
  sum_rows<T, Gate::FROM_Y>(on, per, sums, channels, begin, end, piece);
}

template <typename T>
ONE_PASS void propagate_any(Gate gate, const Gradients<T>& on, const PerChannel& per, const Line& line, int64_t channels,
                            int64_t begin, int64_t end) {
  if (gate == Gate::OPEN) return propagate_rows<T, Gate::OPEN>(on, per, line, channels, begin, end);
  if (gate == Gate::FROM_X) return propagate_rows<T, Gate::FROM_X>(on, per, line, channels, begin, end);
  propagate_rows<T, Gate::FROM_Y>(on, per, line, channels, begin, end);
}

EACH_MACHINE void sum_f32(Gate gate, const Gradients<float>& on, const PerChannel& per, Sums sums, int64_t channels,
                          int64_t begin, int64_t end, int64_t piece) {
  sum_any(gate, on, per, sums, channels, begin, end, piece);
}

EACH_MACHINE void sum_bf16(Gate gate, const Gradients<Bf16>& on, const PerChannel& per, Sums sums, int64_t channels,
                           int64_t begin, int64_t end, int64_t piece) {
  sum_any(gate, on, per, sums, channels, begin, end, piece);
}

EACH_MACHINE void propagate_f32(Gate gate, const Gradients<float>& on, const PerChannel& per, const Line& line,
                                int64_t channels, int64_t begin, int64_t end) {
  propagate_any(gate, on, per, line, channels, begin, end);
}

EACH_MACHINE void propagate_bf16(Gate gate, const Gradients<Bf16>& on, const PerChannel& per, const Line& line,
                                 int64_t channels, int64_t begin, int64_t end) {
  propagate_any(gate, on, per, line, channels, begin, end);
}

// --- over tensors -----------------------------------------------------------------------------------------------------

bool is_bf16(const Tensor& x) {
  TORCH_CHECK(x.scalar_type() == at::kBFloat16 || x.scalar_type() == at::kFloat, "images are f32 or bf16, not ",
              x.scalar_type());
  return x.scalar_type() == at::kBFloat16;
}

template <typename T>
T* data_of(const Tensor& x) {
  return x.defined() ? static_cast<T*>(x.data_ptr()) : nullptr;
}

// Two sums per channel of all parts, which `add(sums, first row, one past the last row)` makes.
template <typename Add>
std::vector<double> sums_of(const Matrix& matrix, Add add) {
  const int64_t channels = matrix.channels, width = 2 * channels;
  std::vector<float> parts(static_cast<size_t>(matrix.num_parts() * width), 0.0f);
  for_each_part(matrix, [&](int64_t begin, int64_t end, int64_t part) {
    float* own = parts.data() + part * width;
    add(Sums{own, own + channels}, begin, end);
  });
  std::vector<double> sums(static_cast<size_t>(width), 0.0);
  for (int64_t part = 0; part < matrix.num_parts(); ++part) {
    for (int64_t c = 0; c < width; ++c) sums[c] += parts[part * width + c];
  }
  return sums;
}

// The mean of a few rows. Counted from there, the variance as a difference of squares keeps its digits.
std::vector<float> near_mean(const Tensor& x, const Matrix& matrix, bool half) {
  const int64_t sample = std::min<int64_t>(matrix.rows, 8);
  std::vector<float> origin(static_cast<size_t>(matrix.channels), 0.0f);
  for (int64_t number = 0; number < sample; ++number) {
    const int64_t start = matrix.rows * number / sample * matrix.channels;
    for (int64_t c = 0; c < matrix.channels; ++c) {
      origin[c] += half ? load_one(data_of<Bf16>(x) + start + c) : data_of<float>(x)[start + c];
    }
  }
  for (float& value : origin) value /= static_cast<float>(sample);
  return origin;
}

void statistics(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& moving_means,
                const Tensor& moving_vars, double momentum, double eps, Tensor& saved) {
  const Matrix matrix(x);
  const int64_t channels = matrix.channels, piece = matrix.rows_of_piece();
  const bool half = is_bf16(x);
  const std::vector<float> origin = near_mean(x, matrix, half);
  const auto sums = sums_of(matrix, [&](Sums own, int64_t begin, int64_t end) {
    if (half) {
      sum_statistics_bf16(data_of<Bf16>(x), origin.data(), own, channels, begin, end, piece);
    } else {
      sum_statistics_f32(data_of<float>(x), origin.data(), own, channels, begin, end, piece);
    }
  });
  const double count = static_cast<double>(matrix.rows);
  const float *gains = weight.const_data_ptr<float>(), *biases = bias.const_data_ptr<float>();
  float* out = saved.data_ptr<float>();
  float *moving_mean = data_of<float>(moving_means), *moving_var = data_of<float>(moving_vars);
  for (int64_t c = 0; c < channels; ++c) {
    const double off = sums[c] / count;
    const double mean = origin[c] + off;
    // a maximum would make zero of what is not a number
    double variance = sums[channels + c] / count - off * off;
    if (variance < 0.0) variance = 0.0;
    const double inverse_std = 1.0 / std::sqrt(variance + eps);
    const float scale = static_cast<float>(gains[c] * inverse_std);
    out[MEAN * channels + c] = static_cast<float>(mean);
    out[INVERSE_STD * channels + c] = static_cast<float>(inverse_std);
    out[SCALE * channels + c] = scale;
    out[SHIFT * channels + c] = static_cast<float>(biases[c] - mean * scale);
    if (moving_mean) {
      const double unbiased = variance * (count / (count - 1.0));
      moving_mean[c] = static_cast<float>((1.0 - momentum) * moving_mean[c] + momentum * mean);
      moving_var[c] = static_cast<float>((1.0 - momentum) * moving_var[c] + momentum * unbiased);
    }
  }
}

void apply(const Tensor& x, const Tensor& saved, const Tensor& residual, bool relu, Tensor& y) {
  const Matrix matrix(x);
  const PerChannel per(saved);
  const bool half = is_bf16(x);
  for_rows(matrix, [&](int64_t begin, int64_t end) {
    if (half) {
      apply_bf16(data_of<Bf16>(x), data_of<Bf16>(residual), relu, data_of<Bf16>(y), per, matrix.channels, begin, end);
    } else {
      apply_f32(data_of<float>(x), data_of<float>(residual), relu, data_of<float>(y), per, matrix.channels, begin, end);
    }
  });
}

template <typename T, typename SumOf, typename Propagate>
void backward_of(Gate gate, const Gradients<T>& on, const Matrix& matrix, const PerChannel& per, Tensor& grad_weight,
                 Tensor& grad_bias, SumOf sum, Propagate propagate) {
  const int64_t channels = matrix.channels, piece = matrix.rows_of_piece();
  const auto sums = sums_of(matrix, [&](Sums own, int64_t begin, int64_t end) {
    sum(gate, on, per, own, channels, begin, end, piece);
  });
  std::vector<float> line(static_cast<size_t>(2 * channels));
  const double count = static_cast<double>(matrix.rows);
  for (int64_t c = 0; c < channels; ++c) {
    const double weight = sums[channels + c] * per.inverse_std[c];
    grad_bias.data_ptr<float>()[c] = static_cast<float>(sums[c]);
    grad_weight.data_ptr<float>()[c] = static_cast<float>(weight);
    line[c] = static_cast<float>(-per.scale[c] * per.inverse_std[c] * weight / count);
    line[channels + c] = static_cast<float>(-per.scale[c] * sums[c] / count);
  }
  const Line along{line.data(), line.data() + channels};
  for_rows(matrix, [&](int64_t begin, int64_t end) { propagate(gate, on, per, along, channels, begin, end); });
}

void backward(const Tensor& gradient, const Tensor& x, const Tensor& y, const Tensor& saved, bool relu, Tensor& grad_x,
              Tensor& grad_residual, Tensor& grad_weight, Tensor& grad_bias) {
  const Gate gate = grad_residual.defined() ? Gate::FROM_Y : relu ? Gate::FROM_X : Gate::OPEN;
  const Matrix matrix(x);
  const PerChannel per(saved);
  if (is_bf16(x)) {
    const Gradients<Bf16> on{data_of<Bf16>(gradient), data_of<Bf16>(x), data_of<Bf16>(y), data_of<Bf16>(grad_x),
                             data_of<Bf16>(grad_residual)};
    backward_of(gate, on, matrix, per, grad_weight, grad_bias, sum_bf16, propagate_bf16);
  } else {
    const Gradients<float> on{data_of<float>(gradient), data_of<float>(x), data_of<float>(y), data_of<float>(grad_x),
                              data_of<float>(grad_residual)};
    backward_of(gate, on, matrix, per, grad_weight, grad_bias, sum_f32, propagate_f32);
  }
}

}  // namespace

const NormKernels norm_on_cpu = {statistics, apply, backward};

}  // namespace orchestrator
