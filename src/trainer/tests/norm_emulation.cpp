// The kernels of shim/norm_kernels.cu on the CPU, for src/device/cuda/norm_tests.rs, which compiles this file and opens it.
//
// The threads of a block are contexts with their own stacks; each runs until a barrier or its end, then the next one
// runs. Their order can be reversed: a kernel that lacks a barrier then gives another result.

#include <dlfcn.h>
#include <math.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <vector>

struct Index {
  unsigned int x, y;
};
static Index threadIdx, blockIdx;

static void __syncthreads();

#define __global__
#define __device__
#define __shared__ static
#define __launch_bounds__(...)

static inline float __uint_as_float(unsigned int bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static inline unsigned int __float_as_uint(float value) {
  unsigned int bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

#include "../shim/norm_kernels.cu"
#include "../shim/norm_launch.h"

using namespace orchestrator;

namespace {

constexpr int MOST_THREADS = MERGED_CHANNELS * MERGED_ROWS;
constexpr size_t STACK_BYTES = 64 << 10;
static_assert(THREADS <= MOST_THREADS, "a stack for each thread");

using Body = void (*)(Pass);

struct Thread {
  ucontext_t start;
  jmp_buf at;
  bool started = false;
  bool ended = true;
};

struct Processor {
  std::vector<Thread> threads = std::vector<Thread>(MOST_THREADS);
  std::vector<char> stacks = std::vector<char>(MOST_THREADS * STACK_BYTES);
  ucontext_t unused;
  jmp_buf scheduler;
  int current = 0;
  Body body = nullptr;
  const Pass* pass = nullptr;
};

Processor* processor = nullptr;

void back_to_scheduler(Thread& thread) {
  if (_setjmp(thread.at) == 0) _longjmp(processor->scheduler, 1);
}

// Entry point of a context, which runs one thread of each block in turn.
void live() {
  Thread& thread = processor->threads[processor->current];
  for (;;) {
    processor->body(*processor->pass);
    thread.ended = true;
    back_to_scheduler(thread);
  }
}

void resume(int number) {
  processor->current = number;
  threadIdx.x = static_cast<unsigned int>(number);
  Thread& thread = processor->threads[number];
  if (_setjmp(processor->scheduler) != 0) return;
  if (thread.started) _longjmp(thread.at, 1);
  thread.started = true;
  getcontext(&thread.start);
  thread.start.uc_stack.ss_sp = &processor->stacks[number * STACK_BYTES];
  thread.start.uc_stack.ss_size = STACK_BYTES;
  thread.start.uc_link = nullptr;
  makecontext(&thread.start, live, 0);
  swapcontext(&processor->unused, &thread.start);
}

// Returns true if all threads reached the same barriers.
bool run_block(int num_threads, bool reversed) {
  for (int number = 0; number < num_threads; ++number) processor->threads[number].ended = false;
  for (int ended = 0; ended < num_threads;) {
    ended = 0;
    for (int turn = 0; turn < num_threads; ++turn) {
      int number = reversed ? num_threads - 1 - turn : turn;
      resume(number);
      ended += processor->threads[number].ended;
    }
    if (ended != 0 && ended != num_threads) return false;
  }
  return true;
}

Body find(const char* name) {
  Dl_info here;
  dladdr(reinterpret_cast<void*>(&find), &here);
  void* library = dlopen(here.dli_fname, RTLD_NOW | RTLD_NOLOAD);
  return reinterpret_cast<Body>(dlsym(library, name));
}

// Runs kernels; `fault` receives an error message, or stays null.
struct Launch {
  bool reversed;
  const char** fault;

  void operator()(int kernel, Grid grid, const Pass& pass) const {
    if (!processor) processor = new Processor;
    processor->body = find(KERNEL_NAMES[kernel]);
    processor->pass = &pass;
    if (!processor->body || grid.threads > MOST_THREADS) {
      *fault = KERNEL_NAMES[kernel];
      return;
    }
    for (int64_t y = 0; y < grid.rows; ++y) {
      for (int64_t x = 0; x < grid.columns; ++x) {
        blockIdx = {static_cast<unsigned int>(x), static_cast<unsigned int>(y)};
        if (!run_block(grid.threads, reversed)) *fault = KERNEL_NAMES[kernel];
      }
    }
  }
};

struct Shape {
  int64_t rows;
  int64_t channels;
  bool bf16;
  bool aligned;
  bool reversed;
};
// src/device/cuda/norm_tests.rs asserts the same
static_assert(sizeof(Shape) == 24 && offsetof(Shape, channels) == 8 && offsetof(Shape, bf16) == 16 &&
              offsetof(Shape, aligned) == 17 && offsetof(Shape, reversed) == 18);

Pass pass_of(const Plan& plan, const Shape& shape, const void* x, float* saved, std::vector<float>& partials) {
  Pass pass{};
  describe(plan, shape.rows, shape.channels, pass);
  pass.x = x;
  pass.saved = saved;
  partials.assign(static_cast<size_t>(num_partials(plan, shape.channels)), NAN);
  pass.partials = partials.data();
  return pass;
}

}  // namespace

static void __syncthreads() { back_to_scheduler(processor->threads[processor->current]); }

extern "C" {

const char* emulate_statistics(Shape shape, const void* x, const float* weight, const float* bias, float* running_mean,
                               float* running_var, float momentum, float eps, float* saved) {
  const char* fault = nullptr;
  std::vector<float> partials;
  Plan made = plan(shape.rows, shape.channels, shape.bf16, shape.aligned, FORWARD_BLOCKS);
  Pass pass = pass_of(made, shape, x, saved, partials);
  pass.weight = weight;
  pass.bias = bias;
  pass.running_mean = running_mean;
  pass.running_var = running_var;
  pass.momentum = momentum;
  pass.eps = eps;
  launch_statistics(made, pass, Launch{shape.reversed, &fault});
  return fault;
}

const char* emulate_apply(Shape shape, const void* x, float* saved, const void* residual, bool relu, void* y) {
  const char* fault = nullptr;
  std::vector<float> partials;
  Plan made = plan(shape.rows, shape.channels, shape.bf16, shape.aligned, FORWARD_BLOCKS);
  Pass pass = pass_of(made, shape, x, saved, partials);
  pass.residual = residual;
  pass.relu = relu;
  pass.out = y;
  launch_apply(made, pass, Launch{shape.reversed, &fault});
  return fault;
}

const char* emulate_backward(Shape shape, const void* gradient, const void* x, const void* y, float* saved, bool relu,
                             void* grad_x, void* grad_residual, float* grad_weight, float* grad_bias) {
  const char* fault = nullptr;
  std::vector<float> partials;
  Plan made = plan(shape.rows, shape.channels, shape.bf16, shape.aligned, BACKWARD_BLOCKS);
  Pass pass = pass_of(made, shape, x, saved, partials);
  pass.gradient = gradient;
  pass.y = y;
  pass.relu = relu;
  pass.out = grad_x;
  pass.grad_residual = grad_residual;
  pass.grad_weight = grad_weight;
  pass.grad_bias = grad_bias;
  launch_backward(made, pass, Launch{shape.reversed, &fault});
  return fault;
}
}
