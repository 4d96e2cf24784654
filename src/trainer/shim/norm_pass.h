// What the host gives a kernel of norm_kernels.cu: plain numbers, the same to g++ and to NVRTC, which has no headers.
//
// A block is THREADS threads. `1 << lane_bits` of them stand side by side on a row, each on a group of neighbouring
// channels; the rest repeat that further down. blockIdx.x is the strip of channels, blockIdx.y the chunk of rows.

#pragma once

namespace orchestrator {

constexpr int THREADS = 256;
// Blocks that a processor can hold at once, by the registers that the kernels of either pass need.
constexpr int FORWARD_BLOCKS = 4;
constexpr int BACKWARD_BLOCKS = 3;
// The block of the kernels that merge partial sums: its width in channels, its height in rows of partial sums.
constexpr int MERGED_CHANNELS = 8;
constexpr int MERGED_ROWS = 64;

struct Pass {
  // [rows, channels]; null where the pass has none
  const void* x;
  const void* gradient;
  const void* y;
  const void* residual;
  // y going forward, grad_x going back
  void* out;
  void* grad_residual;
  // f32: [channels]; `saved` as in norm.h; `partials` [num_chunks, 2, channels]
  const float* weight;
  const float* bias;
  float* running_mean;
  float* running_var;
  float* saved;
  float* partials;
  float* grad_weight;
  float* grad_bias;
  long long rows;
  long long rows_per_chunk;
  int channels;
  int num_chunks;
  int lane_bits;
  bool relu;
  float momentum;
  float eps;
};

// Both compilers must see it alike.
static_assert(sizeof(Pass) == 152, "a kernel reads the bytes that the host wrote");

}  // namespace orchestrator
