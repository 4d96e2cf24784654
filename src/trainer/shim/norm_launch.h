// Which kernels of norm_kernels.cu a pass takes, over which grid. No CUDA and no libtorch in here: norm_cuda.cpp gives
// what launches on a GPU, and a test what runs on the CPU.

#pragma once

#include <algorithm>
#include <cstdint>

#include "norm_pass.h"

namespace orchestrator {

enum Kernel { STATISTICS, APPLY, APPLY_ADD, REDUCE, REDUCE_ADD, BACKWARD, NUM_KERNELS_OF_FORM };

// Of the first 24, six for each form: bf16 and f32, one channel at a time and 16 bytes of them.
constexpr int NUM_FORMS = 4;
constexpr int MERGE_STATISTICS = NUM_FORMS * NUM_KERNELS_OF_FORM;
constexpr int MERGE_GRADIENTS = MERGE_STATISTICS + 1;
constexpr int NUM_KERNELS = MERGE_GRADIENTS + 1;

#define KERNELS_OF(suffix)                                                                                    \
  "norm_statistics_" suffix, "norm_apply_" suffix, "norm_apply_add_" suffix, "norm_reduce_" suffix, \
      "norm_reduce_add_" suffix, "norm_backward_" suffix
constexpr const char* KERNEL_NAMES[NUM_KERNELS] = {KERNELS_OF("bf16"),  KERNELS_OF("bf16x8"),    KERNELS_OF("f32"),
                                                   KERNELS_OF("f32x4"), "norm_merge_statistics", "norm_merge_gradients"};
#undef KERNELS_OF

// Of an H200. A grid has as many blocks as that can hold at once, at most; so it has on other GPUs, that their sums have
// the same order.
constexpr int64_t PROCESSORS = 132;

struct Grid {
  int64_t columns;
  int64_t rows;
  int threads;
};

struct Plan {
  // of KERNEL_NAMES
  int first_kernel;
  int lane_bits;
  Grid grid;
  int64_t rows_per_chunk;
};

inline int64_t divide_up(int64_t value, int64_t by) { return (value + by - 1) / by; }

// `aligned`: every array begins at a multiple of 16 bytes. `blocks`: FORWARD_BLOCKS or BACKWARD_BLOCKS.
inline Plan plan(int64_t rows, int64_t channels, bool bf16, bool aligned, int blocks) {
  int width = bf16 ? 8 : 4;
  bool grouped = aligned && channels % width == 0;
  int64_t groups = grouped ? channels / width : channels;
  Plan made;
  made.first_kernel = ((bf16 ? 0 : 2) + (grouped ? 1 : 0)) * NUM_KERNELS_OF_FORM;
  made.lane_bits = 0;
  // a warp reads at most 512 bytes of a row
  while (made.lane_bits < 5 && (int64_t{1} << made.lane_bits) < groups) ++made.lane_bits;
  int64_t strips = divide_up(groups, int64_t{1} << made.lane_bits);
  int64_t rows_of_block = THREADS >> made.lane_bits;
  int64_t most = std::min(divide_up(blocks * PROCESSORS, strips), divide_up(rows, rows_of_block));
  made.rows_per_chunk = divide_up(divide_up(rows, most), rows_of_block) * rows_of_block;
  made.grid = {strips, divide_up(rows, made.rows_per_chunk), THREADS};
  return made;
}

// f32 values that `partials` must hold.
inline int64_t num_partials(const Plan& plan, int64_t channels) { return plan.grid.rows * 2 * channels; }

inline Grid merging_grid(int64_t channels) {
  return {divide_up(channels, MERGED_CHANNELS), 1, MERGED_CHANNELS * MERGED_ROWS};
}

inline void describe(const Plan& plan, int64_t rows, int64_t channels, Pass& pass) {
  pass.rows = rows;
  pass.channels = static_cast<int>(channels);
  pass.rows_per_chunk = plan.rows_per_chunk;
  pass.num_chunks = static_cast<int>(plan.grid.rows);
  pass.lane_bits = plan.lane_bits;
}

// Each `launch(kernel, grid, pass)` comes after the one before on the device; what `pass` points to is described above.

template <typename Launch>
void launch_statistics(const Plan& plan, const Pass& pass, const Launch& launch) {
  launch(plan.first_kernel + STATISTICS, plan.grid, pass);
  launch(MERGE_STATISTICS, merging_grid(pass.channels), pass);
}

template <typename Launch>
void launch_apply(const Plan& plan, const Pass& pass, const Launch& launch) {
  launch(plan.first_kernel + (pass.residual ? APPLY_ADD : APPLY), plan.grid, pass);
}

template <typename Launch>
void launch_backward(const Plan& plan, const Pass& pass, const Launch& launch) {
  launch(plan.first_kernel + (pass.grad_residual ? REDUCE_ADD : REDUCE), plan.grid, pass);
  launch(MERGE_GRADIENTS, merging_grid(pass.channels), pass);
  Pass last = pass;
  if (pass.grad_residual) {
    // it is the gradient where y > 0
    last.gradient = pass.grad_residual;
    last.relu = false;
  }
  launch(plan.first_kernel + BACKWARD, plan.grid, last);
}

}  // namespace orchestrator
