// The kernels of norm.h on a GPU. NVRTC compiles this file where a GPU is (src/device/cuda/norm.rs); a test compiles it as C++
// and runs it thread by thread (src/device/cuda/norm_tests.rs).
//
// Sums are made in a fixed order, by a grid that depends on the shape alone: first per thread, then per block, then by a
// second kernel over blocks. Nothing here is atomic, so that a pass gives the same bits in every run and on every GPU.

#include "norm_pass.h"

namespace orchestrator {

// Rows that a thread asks memory for before it uses the first: one array is read, or two and three.
constexpr int AHEAD_ONE = 4;
constexpr int AHEAD_MORE = 2;

// Neighbouring channels, as they lie in memory.
struct alignas(16) Words {
  unsigned int word[4];
};

__device__ inline float from_bf16(unsigned int bits) { return __uint_as_float(bits << 16); }

// The nearest, ties to even; what is not a number stays so.
__device__ inline unsigned int to_bf16(float value) {
  unsigned int bits = __float_as_uint(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fc0u;
  return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}

// The same of two neighbours.
__device__ inline unsigned int to_bf16_pair(float low, float high) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  unsigned int pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
#else
  return to_bf16(low) | (to_bf16(high) << 16);
#endif
}

// How a thread sees its channels: WIDTH of them at once.
struct Bf16One {
  typedef unsigned short Element;
  typedef unsigned short Raw;
  static constexpr int WIDTH = 1;
  __device__ static void widen(Raw raw, float* value) { value[0] = from_bf16(raw); }
  __device__ static Raw round(const float* value) { return static_cast<Raw>(to_bf16(value[0])); }
};

struct Bf16Eight {
  typedef unsigned short Element;
  typedef Words Raw;
  static constexpr int WIDTH = 8;
  __device__ static void widen(Raw raw, float* value) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      value[2 * i] = from_bf16(raw.word[i]);
      value[2 * i + 1] = __uint_as_float(raw.word[i] & 0xffff0000u);
    }
  }
  __device__ static Raw round(const float* value) {
    Raw raw;
#pragma unroll
    for (int i = 0; i < 4; ++i) raw.word[i] = to_bf16_pair(value[2 * i], value[2 * i + 1]);
    return raw;
  }
};

struct F32One {
  typedef float Element;
  typedef float Raw;
  static constexpr int WIDTH = 1;
  __device__ static void widen(Raw raw, float* value) { value[0] = raw; }
  __device__ static Raw round(const float* value) { return value[0]; }
};

struct F32Four {
  typedef float Element;
  typedef Words Raw;
  static constexpr int WIDTH = 4;
  __device__ static void widen(Raw raw, float* value) {
#pragma unroll
    for (int i = 0; i < 4; ++i) value[i] = __uint_as_float(raw.word[i]);
  }
  __device__ static Raw round(const float* value) {
    Raw raw;
#pragma unroll
    for (int i = 0; i < 4; ++i) raw.word[i] = __float_as_uint(value[i]);
    return raw;
  }
};

// Where a thread stands: its channels, and which rows of the block's chunk it walks: `row`, `row + stride`, below `end`.
template <typename Form>
struct Place {
  int channel;
  int row;
  int stride;
  int end;
  // of its channels in the chunk's first row
  long long offset;

  __device__ explicit Place(const Pass& pass) {
    int lanes = 1 << pass.lane_bits;
    channel = (blockIdx.x * lanes + (threadIdx.x & (lanes - 1))) * Form::WIDTH;
    row = threadIdx.x >> pass.lane_bits;
    stride = THREADS >> pass.lane_bits;
    long long begin = blockIdx.y * pass.rows_per_chunk;
    long long left = pass.rows - begin;
    end = static_cast<int>(left < pass.rows_per_chunk ? left : pass.rows_per_chunk);
    offset = begin * pass.channels + channel;
  }
};

template <typename Form>
__device__ inline typename Form::Raw load(const void* matrix, const Pass& pass, const Place<Form>& place, int row) {
  const typename Form::Element* element = static_cast<const typename Form::Element*>(matrix) + place.offset;
  return *reinterpret_cast<const typename Form::Raw*>(element + static_cast<long long>(row) * pass.channels);
}

template <typename Form>
__device__ inline void store(void* matrix, const Pass& pass, const Place<Form>& place, int row, const float* value) {
  typename Form::Element* element = static_cast<typename Form::Element*>(matrix) + place.offset;
  *reinterpret_cast<typename Form::Raw*>(element + static_cast<long long>(row) * pass.channels) = Form::round(value);
}

// norm(x) without what follows. Forward and backward pass call this one, because the sign must be the same in both.
__device__ inline float normalised(float x, float scale, float shift) { return fmaf(x, scale, shift); }

// What is not a number is not below zero.
__device__ inline float rectified(float value) { return value < 0.0f ? 0.0f : value; }

// Adds up the block's `first` and `second` over its rows. The threads of its first row have the sums.
template <int WIDTH>
__device__ void sum_over_rows(float* first, float* second, int row, int rows, int lane_bits) {
  __shared__ float sums[2 * WIDTH * THREADS];
#pragma unroll
  for (int i = 0; i < WIDTH; ++i) {
    sums[i * THREADS + threadIdx.x] = first[i];
    sums[(WIDTH + i) * THREADS + threadIdx.x] = second[i];
  }
  for (int half = rows / 2; half > 0; half /= 2) {
    __syncthreads();
    if (row < half) {
      int other = threadIdx.x + (half << lane_bits);
#pragma unroll
      for (int i = 0; i < 2 * WIDTH; ++i) sums[i * THREADS + threadIdx.x] += sums[i * THREADS + other];
    }
  }
  if (row == 0) {
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) {
      first[i] = sums[i * THREADS + threadIdx.x];
      second[i] = sums[(WIDTH + i) * THREADS + threadIdx.x];
    }
  }
}

template <typename Form>
__device__ inline void store_partials(const Pass& pass, int channel, const float* first, const float* second) {
  float* partials = pass.partials + 2 * static_cast<long long>(blockIdx.y) * pass.channels + channel;
#pragma unroll
  for (int i = 0; i < Form::WIDTH; ++i) {
    partials[i] = first[i];
    partials[pass.channels + i] = second[i];
  }
}

// Mean of each chunk, and the sum of squares of what is left of it. Both are of the differences from the chunk's first
// row, which is near the mean where the mean is large: so no digits are lost to it.
template <typename Form>
__device__ void statistics(const Pass& pass) {
  constexpr int WIDTH = Form::WIDTH;
  Place<Form> place(pass);
  bool inside = place.channel < pass.channels;
  float first[WIDTH], sum[WIDTH], squares[WIDTH];
#pragma unroll
  for (int i = 0; i < WIDTH; ++i) first[i] = sum[i] = squares[i] = 0.0f;
  if (inside) {
    Form::widen(load<Form>(pass.x, pass, place, 0), first);
    for (int row = place.row; row < place.end; row += AHEAD_ONE * place.stride) {
      typename Form::Raw raw[AHEAD_ONE];
#pragma unroll
      for (int k = 0; k < AHEAD_ONE; ++k) {
        int at = row + k * place.stride;
        if (at < place.end) raw[k] = load<Form>(pass.x, pass, place, at);
      }
#pragma unroll
      for (int k = 0; k < AHEAD_ONE; ++k) {
        if (row + k * place.stride >= place.end) break;
        float x[WIDTH];
        Form::widen(raw[k], x);
#pragma unroll
        for (int i = 0; i < WIDTH; ++i) {
          float difference = x[i] - first[i];
          sum[i] += difference;
          squares[i] = fmaf(difference, difference, squares[i]);
        }
      }
    }
  }
  sum_over_rows<WIDTH>(sum, squares, place.row, place.stride, pass.lane_bits);
  if (!inside || place.row != 0) return;
  float count = static_cast<float>(place.end);
#pragma unroll
  for (int i = 0; i < WIDTH; ++i) {
    float mean = sum[i] / count;
    squares[i] = squares[i] - sum[i] * mean;
    sum[i] = first[i] + mean;
  }
  store_partials<Form>(pass, place.channel, sum, squares);
}

template <typename Form, bool ADDS>
__device__ void apply(const Pass& pass) {
  constexpr int WIDTH = Form::WIDTH;
  constexpr int AHEAD = ADDS ? AHEAD_MORE : AHEAD_ONE;
  Place<Form> place(pass);
  if (place.channel >= pass.channels) return;
  float scale[WIDTH], shift[WIDTH];
#pragma unroll
  for (int i = 0; i < WIDTH; ++i) {
    scale[i] = pass.saved[2 * pass.channels + place.channel + i];
    shift[i] = pass.saved[3 * pass.channels + place.channel + i];
  }
  for (int row = place.row; row < place.end; row += AHEAD * place.stride) {
    typename Form::Raw raw[AHEAD], added[AHEAD];
#pragma unroll
    for (int k = 0; k < AHEAD; ++k) {
      int at = row + k * place.stride;
      if (at >= place.end) break;
      raw[k] = load<Form>(pass.x, pass, place, at);
      if (ADDS) added[k] = load<Form>(pass.residual, pass, place, at);
    }
#pragma unroll
    for (int k = 0; k < AHEAD; ++k) {
      int at = row + k * place.stride;
      if (at >= place.end) break;
      float value[WIDTH], residual[WIDTH];
      Form::widen(raw[k], value);
      if (ADDS) Form::widen(added[k], residual);
#pragma unroll
      for (int i = 0; i < WIDTH; ++i) {
        value[i] = normalised(value[i], scale[i], shift[i]);
        if (ADDS) value[i] += residual[i];
        if (pass.relu) value[i] = rectified(value[i]);
      }
      store<Form>(pass.out, pass, place, at, value);
    }
  }
}

// Per chunk, with g the gradient where y > 0: sum(g) and sum(g * (x - mean)). With ADDS, y was kept and g is written.
template <typename Form, bool ADDS>
__device__ void reduce(const Pass& pass) {
  constexpr int WIDTH = Form::WIDTH;
  Place<Form> place(pass);
  bool inside = place.channel < pass.channels;
  float mean[WIDTH], scale[WIDTH], shift[WIDTH], sum[WIDTH], products[WIDTH];
#pragma unroll
  for (int i = 0; i < WIDTH; ++i) {
    mean[i] = inside ? pass.saved[place.channel + i] : 0.0f;
    scale[i] = inside ? pass.saved[2 * pass.channels + place.channel + i] : 0.0f;
    shift[i] = inside ? pass.saved[3 * pass.channels + place.channel + i] : 0.0f;
    sum[i] = products[i] = 0.0f;
  }
  for (int row = place.row; inside && row < place.end; row += AHEAD_MORE * place.stride) {
    typename Form::Raw raw[AHEAD_MORE], gradients[AHEAD_MORE], kept[AHEAD_MORE];
#pragma unroll
    for (int k = 0; k < AHEAD_MORE; ++k) {
      int at = row + k * place.stride;
      if (at >= place.end) break;
      raw[k] = load<Form>(pass.x, pass, place, at);
      gradients[k] = load<Form>(pass.gradient, pass, place, at);
      if (ADDS) kept[k] = load<Form>(pass.y, pass, place, at);
    }
#pragma unroll
    for (int k = 0; k < AHEAD_MORE; ++k) {
      int at = row + k * place.stride;
      if (at >= place.end) break;
      float x[WIDTH], g[WIDTH], y[WIDTH];
      Form::widen(raw[k], x);
      Form::widen(gradients[k], g);
      if (ADDS) Form::widen(kept[k], y);
#pragma unroll
      for (int i = 0; i < WIDTH; ++i) {
        if (!ADDS) y[i] = normalised(x[i], scale[i], shift[i]);
        if (pass.relu && !(y[i] > 0.0f)) g[i] = 0.0f;
        sum[i] += g[i];
        products[i] = fmaf(g[i], x[i] - mean[i], products[i]);
      }
      if (ADDS) store<Form>(pass.grad_residual, pass, place, at, g);
    }
  }
  sum_over_rows<WIDTH>(sum, products, place.row, place.stride, pass.lane_bits);
  if (inside && place.row == 0) store_partials<Form>(pass, place.channel, sum, products);
}

// grad_x = SCALE * (g - grad_bias / n - xhat * grad_weight / n). Where g was written, `gradient` is that, without `relu`.
template <typename Form>
__device__ void backward(const Pass& pass) {
  constexpr int WIDTH = Form::WIDTH;
  Place<Form> place(pass);
  if (place.channel >= pass.channels) return;
  float mean[WIDTH], scale[WIDTH], shift[WIDTH], constant[WIDTH], slope[WIDTH];
  float per_row = 1.0f / static_cast<float>(pass.rows);
#pragma unroll
  for (int i = 0; i < WIDTH; ++i) {
    int channel = place.channel + i;
    mean[i] = pass.saved[channel];
    scale[i] = pass.saved[2 * pass.channels + channel];
    shift[i] = pass.saved[3 * pass.channels + channel];
    constant[i] = -pass.grad_bias[channel] * per_row;
    slope[i] = -pass.grad_weight[channel] * per_row * pass.saved[pass.channels + channel];
  }
  for (int row = place.row; row < place.end; row += AHEAD_MORE * place.stride) {
    typename Form::Raw raw[AHEAD_MORE], gradients[AHEAD_MORE];
#pragma unroll
    for (int k = 0; k < AHEAD_MORE; ++k) {
      int at = row + k * place.stride;
      if (at >= place.end) break;
      raw[k] = load<Form>(pass.x, pass, place, at);
      gradients[k] = load<Form>(pass.gradient, pass, place, at);
    }
#pragma unroll
    for (int k = 0; k < AHEAD_MORE; ++k) {
      int at = row + k * place.stride;
      if (at >= place.end) break;
      float x[WIDTH], g[WIDTH];
      Form::widen(raw[k], x);
      Form::widen(gradients[k], g);
#pragma unroll
      for (int i = 0; i < WIDTH; ++i) {
        if (pass.relu && !(normalised(x[i], scale[i], shift[i]) > 0.0f)) g[i] = 0.0f;
        g[i] = scale[i] * fmaf(x[i] - mean[i], slope[i], g[i] + constant[i]);
      }
      store<Form>(pass.out, pass, place, at, g);
    }
  }
}

// Where a thread of the merging kernels stands; its block's sums are left to the threads of row 0.
struct Merge {
  int channel;
  int row;

  __device__ Merge() {
    channel = blockIdx.x * MERGED_CHANNELS + threadIdx.x % MERGED_CHANNELS;
    row = threadIdx.x / MERGED_CHANNELS;
  }
};

template <int COUNT>
__device__ void sum_over_chunks(float* value, int row) {
  constexpr int ALL = MERGED_CHANNELS * MERGED_ROWS;
  __shared__ float sums[COUNT * ALL];
#pragma unroll
  for (int i = 0; i < COUNT; ++i) sums[i * ALL + threadIdx.x] = value[i];
  for (int half = MERGED_ROWS / 2; half > 0; half /= 2) {
    __syncthreads();
    if (row < half) {
      int other = threadIdx.x + half * MERGED_CHANNELS;
#pragma unroll
      for (int i = 0; i < COUNT; ++i) sums[i * ALL + threadIdx.x] += sums[i * ALL + other];
    }
  }
#pragma unroll
  for (int i = 0; i < COUNT; ++i) value[i] = sums[i * ALL + threadIdx.x];
}

// Chunks' means m and squares q are put together by way of their differences from the first chunk's mean:
// sum(n * d) and sum(q + n * d * d).
__device__ inline void merge_statistics(const Pass& pass) {
  Merge merge;
  bool inside = merge.channel < pass.channels;
  float first = inside ? pass.partials[merge.channel] : 0.0f;
  float sums[2] = {0.0f, 0.0f};
  for (int chunk = merge.row; inside && chunk < pass.num_chunks; chunk += MERGED_ROWS) {
    const float* partials = pass.partials + 2 * static_cast<long long>(chunk) * pass.channels + merge.channel;
    long long left = pass.rows - chunk * pass.rows_per_chunk;
    float count = static_cast<float>(left < pass.rows_per_chunk ? left : pass.rows_per_chunk);
    float difference = partials[0] - first;
    sums[0] = fmaf(count, difference, sums[0]);
    sums[1] += fmaf(count * difference, difference, partials[pass.channels]);
  }
  sum_over_chunks<2>(sums, merge.row);
  if (!inside || merge.row != 0) return;
  float count = static_cast<float>(pass.rows);
  float shift = sums[0] / count;
  float squares = sums[1] - sums[0] * shift;
  if (squares < 0.0f) squares = 0.0f;
  float mean = first + shift, variance = squares / count;
  float inverse_std = 1.0f / sqrtf(variance + pass.eps);
  float scale = pass.weight[merge.channel] * inverse_std;
  float* saved = pass.saved + merge.channel;
  saved[0] = mean;
  saved[pass.channels] = inverse_std;
  saved[2 * pass.channels] = scale;
  saved[3 * pass.channels] = fmaf(-mean, scale, pass.bias[merge.channel]);
  if (!pass.running_mean) return;
  float kept = 1.0f - pass.momentum, unbiased = squares / (count - 1.0f);
  pass.running_mean[merge.channel] = fmaf(kept, pass.running_mean[merge.channel], pass.momentum * mean);
  pass.running_var[merge.channel] = fmaf(kept, pass.running_var[merge.channel], pass.momentum * unbiased);
}

__device__ inline void merge_gradients(const Pass& pass) {
  Merge merge;
  bool inside = merge.channel < pass.channels;
  float sums[2] = {0.0f, 0.0f};
  for (int chunk = merge.row; inside && chunk < pass.num_chunks; chunk += MERGED_ROWS) {
    const float* partials = pass.partials + 2 * static_cast<long long>(chunk) * pass.channels + merge.channel;
    sums[0] += partials[0];
    sums[1] += partials[pass.channels];
  }
  sum_over_chunks<2>(sums, merge.row);
  if (!inside || merge.row != 0) return;
  pass.grad_bias[merge.channel] = sums[0];
  pass.grad_weight[merge.channel] = sums[1] * pass.saved[pass.channels + merge.channel];
}

}  // namespace orchestrator

// Names as norm_launch.h has them. The second bound is how many blocks of a grid a processor must be able to hold at once.
#define KERNEL(name, blocks, ...)                                                                    \
  extern "C" __global__ void __launch_bounds__(orchestrator::THREADS, blocks) name(orchestrator::Pass pass) { \
    orchestrator::__VA_ARGS__(pass);                                                                        \
  }

#define KERNELS_OF_FORM(Form, suffix)                                                                 \
  KERNEL(norm_statistics_##suffix, orchestrator::FORWARD_BLOCKS, statistics<orchestrator::Form>)      \
  KERNEL(norm_apply_##suffix, orchestrator::FORWARD_BLOCKS, apply<orchestrator::Form, false>)          \
  KERNEL(norm_apply_add_##suffix, orchestrator::FORWARD_BLOCKS, apply<orchestrator::Form, true>)        \
  KERNEL(norm_reduce_##suffix, orchestrator::BACKWARD_BLOCKS, reduce<orchestrator::Form, false>)       \
  KERNEL(norm_reduce_add_##suffix, orchestrator::BACKWARD_BLOCKS, reduce<orchestrator::Form, true>)     \
  KERNEL(norm_backward_##suffix, orchestrator::BACKWARD_BLOCKS, backward<orchestrator::Form>)

KERNELS_OF_FORM(Bf16One, bf16)
KERNELS_OF_FORM(Bf16Eight, bf16x8)
KERNELS_OF_FORM(F32One, f32)
KERNELS_OF_FORM(F32Four, f32x4)

extern "C" __global__ void norm_merge_statistics(orchestrator::Pass pass) { orchestrator::merge_statistics(pass); }

extern "C" __global__ void norm_merge_gradients(orchestrator::Pass pass) { orchestrator::merge_gradients(pass); }
