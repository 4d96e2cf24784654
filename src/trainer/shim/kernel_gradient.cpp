// The gradient of a convolution's kernels in bf16, with vector instructions that multiply pairs (`avx512_bf16`).
//
//   gradient_of_kernels[o, dy, dx, i] = sum over places (n, y, x) of gradient[n, y, x, o] * image[n, y * stride + dy - padding,
//   x * stride + dx - padding, i]
//
// The instruction adds products of two neighbours in memory, so neighbours must be neighbours in the sum: two places of
// one row. Rows are therefore repacked, 32 channels at a time, into panels [pair of places][channel][2]; the image once
// for each dx, because an offset of one place changes who is a pair. A tile of 8 outputs by 32 inputs stays in registers while it
// goes over the pairs of a chunk of rows that stays in the nearest caches. The instruction takes denormal numbers for zero.

#include "panels.h"

#include <cstring>
#include <vector>

#if defined(__x86_64__)

namespace orchestrator {
namespace {

constexpr int64_t TILE = 8;         // outputs of a tile: with 2 x 8 sums, enough to hide an instruction's latency
constexpr int64_t CHUNK = 112;      // pairs: a panel of 14 KiB, 21 with the rows that a 3x3 kernel sees beyond
constexpr int64_t WHOLE = 256;      // pairs of one chunk, which needs no sums in memory

int64_t rows_of_chunk(const Geometry& on) {
  const int64_t rows = on.batch * on.out_height, pairs = pairs_of_row(on);
  return rows * pairs <= WHOLE ? rows : std::max<int64_t>(1, CHUNK / pairs);
}

// An output row of a chunk and the image row it sees, as offsets into their panels.
struct Seen {
  int64_t gradient, image;
};

// Where a tile's sums are: in f32 between chunks, in bf16 after the last one. Outputs are `apart` numbers apart.
struct Target {
  float* sums;
  Number* rounded;
  int64_t apart;
  bool is_first, is_last;
};

PAIR_MACHINE void add_tile(const std::vector<Seen>& rows, int64_t pairs, const Number* gradients, const Number* images, Target to) {
  __m512 tile[TILE][2];
#pragma GCC unroll 8
  for (int o = 0; o < TILE; ++o) {
    tile[o][0] = tile[o][1] = _mm512_setzero_ps();
    if (to.is_first) continue;
    _mm_prefetch(to.sums + o * to.apart, _MM_HINT_T0);
    _mm_prefetch(to.sums + o * to.apart + 16, _MM_HINT_T0);
  }
  for (const Seen& row : rows) {
    const Number *gradient = gradients + row.gradient, *image = images + row.image;
    for (int64_t pair = 0; pair < pairs; ++pair, gradient += PAIR, image += PAIR) {
      const __m512bh low = (__m512bh)_mm512_load_si512(image), high = (__m512bh)_mm512_load_si512(image + BLOCK);
#pragma GCC unroll 8
      for (int o = 0; o < TILE; ++o) {
        int32_t both;
        memcpy(&both, gradient + 2 * o, sizeof both);
        const __m512bh everywhere = (__m512bh)_mm512_set1_epi32(both);
        tile[o][0] = _mm512_dpbf16_ps(tile[o][0], low, everywhere);
        tile[o][1] = _mm512_dpbf16_ps(tile[o][1], high, everywhere);
      }
    }
  }
#pragma GCC unroll 8
  for (int o = 0; o < TILE; ++o) {
    for (int half = 0; half < 2; ++half) {
      float* sums = to.sums + o * to.apart + 16 * half;
      const __m512 sum = to.is_first ? tile[o][half] : _mm512_add_ps(tile[o][half], _mm512_loadu_ps(sums));
      if (to.is_last) {
        const __m256i rounded = (__m256i)_mm512_cvtneps_pbh(sum);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to.rounded + o * to.apart + 16 * half), rounded);
      } else {
        _mm512_storeu_ps(sums, sum);
      }
    }
  }
}

void compute(const Geometry& on, const Arrays& arrays, const Part& part) {
  const int64_t blocks = on.inputs / BLOCK, rows = on.batch * on.out_height, chunk = rows_of_chunk(on);
  const int64_t pairs = pairs_of_row(on), length = pairs * PAIR, seen = on.seen();
  const int64_t first_block = part.first_tile * TILE / BLOCK;
  const int64_t end_block = ((part.first_tile + part.tiles) * TILE + BLOCK - 1) / BLOCK;
  const int64_t most_rows = chunk * on.stride + on.kernel * (chunk / on.out_height + 2);
  const Panels gradients = panels((end_block - first_block) * chunk * pairs), images = panels(most_rows * pairs);
  std::vector<std::vector<Seen>> seen_by(static_cast<size_t>(on.kernel));
  for (int64_t begin = 0; begin < rows; begin += chunk) {
    const int64_t end = std::min(rows, begin + chunk);
    const auto gradients_of = [&](int64_t block) { return gradients.get() + (block - first_block) * chunk * length; };
    for (int64_t block = first_block; block < end_block; ++block) {
      for (int64_t row = begin; row < end; ++row) {
        pack(arrays.gradient + row * on.out_width * on.outputs + block * BLOCK, on.outputs, on.out_width, 0, 1, on.out_width,
             gradients_of(block) + (row - begin) * length);
      }
    }
    for (int64_t unit = part.first_unit; unit < part.first_unit + part.units; ++unit) {
      const int64_t dx = unit / blocks, block = unit % blocks;
      for (auto& list : seen_by) list.clear();
      // Image rows that several output rows see follow each other, so that the last one packed determines which are there.
      int64_t packed = 0, last = -1;
      for (int64_t row = begin; row < end; ++row) {
        for (int64_t dy = 0; dy < on.kernel; ++dy) {
          const int64_t y = row % on.out_height * on.stride + dy - on.padding;
          if (y < 0 || y >= on.height) continue;
          const int64_t image_row = row / on.out_height * on.height + y;
          if (image_row > last) {
            last = image_row;
            pack(arrays.image + image_row * on.width * on.inputs + block * BLOCK, on.inputs, on.width, dx - on.padding,
                 on.stride, on.out_width, images.get() + packed++ * length);
          }
          seen_by[dy].push_back({(row - begin) * length, (packed - 1 - (last - image_row)) * length});
        }
      }
      for (int64_t tile = part.first_tile; tile < part.first_tile + part.tiles; ++tile) {
        const int64_t output = tile * TILE;
        for (int64_t dy = 0; dy < on.kernel; ++dy) {
          const int64_t at = output * seen + (dy * on.kernel + dx) * on.inputs + block * BLOCK;
          add_tile(seen_by[dy], pairs, gradients_of(output / BLOCK) + 2 * (output % BLOCK), images.get(),
                   {arrays.sums + at, arrays.rounded + at, seen, begin == 0, end == rows});
        }
      }
    }
  }
}

}  // namespace

bool has_kernel_gradient(const at::Tensor& x, const Geometry& on) {
  static const bool has_pairs = __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  if (!has_pairs || x.scalar_type() != at::kBFloat16 || on.inputs % BLOCK != 0 || on.outputs % BLOCK != 0) return false;
  return !has_tiles() || tiles_are_filled(on);
}

at::Tensor kernel_gradient(const at::Tensor& gradient, const at::Tensor& x, const Geometry& on) {
  TORCH_CHECK(on.places() > 0, "kernel_gradient: no places");
  const std::vector<int64_t> shape{on.outputs, on.inputs, on.kernel, on.kernel};
  at::Tensor rounded = at::empty(shape, x.options(), at::MemoryFormat::ChannelsLast), sums;
  Arrays arrays{static_cast<const Number*>(gradient.data_ptr()), static_cast<const Number*>(x.data_ptr()), nullptr,
                static_cast<Number*>(rounded.data_ptr())};
  const bool one_chunk = has_tiles() ? tiles_have_one_chunk(on) : rows_of_chunk(on) == on.batch * on.out_height;
  if (!one_chunk) {
    sums = at::empty(shape, x.options().dtype(at::kFloat));
    arrays.sums = sums.data_ptr<float>();
  }
  if (has_tiles()) {
    compute_by_tiles(on, arrays);
  } else {
    for_each_part(on.kernel * (on.inputs / BLOCK), on.outputs / TILE, on.kernel, {16, 12, 2},
                  [&](const Part& part) { compute(on, arrays, part); });
  }
  return rounded;
}

}  // namespace orchestrator

#else

namespace orchestrator {

bool has_kernel_gradient(const at::Tensor&, const Geometry&) { return false; }

at::Tensor kernel_gradient(const at::Tensor&, const at::Tensor&, const Geometry&) {
  TORCH_CHECK(false, "kernel_gradient is for processors with avx512_bf16");
}

}  // namespace orchestrator

#endif
