// What both ways of making the gradient of a convolution's kernels share: how rows of images are repacked for instructions
// that multiply pairs of neighbours in memory, and how the work is split over threads.

#pragma once

#include "convolution.h"

#if defined(__x86_64__)

#include <ATen/Parallel.h>
#include <immintrin.h>

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <memory>
#include <new>
#include <utility>

#define PAIR_TARGET "avx512f,avx512bw,avx512vl,avx512bf16"
#define PAIR_MACHINE __attribute__((target(PAIR_TARGET)))

namespace orchestrator {

constexpr int64_t BLOCK = 32;        // channels of a panel: two registers of 16 pairs
constexpr int64_t PAIR = 2 * BLOCK;  // numbers of a panel's pair of places

using Number = uint16_t;  // the bits of a bf16

alignas(64) inline const Number ZEROS[BLOCK] = {};

struct Free {
  void operator()(Number* numbers) const { std::free(numbers); }
};
using Panels = std::unique_ptr<Number, Free>;

inline Panels panels(int64_t pairs) {
  void* numbers = std::aligned_alloc(64, sizeof(Number) * PAIR * pairs);
  if (!numbers) throw std::bad_alloc();
  return Panels(static_cast<Number*>(numbers));
}

// Pairs of places of an output row; the last one of an odd row has zeros for its second place.
inline int64_t pairs_of_row(const Geometry& on) { return (on.out_width + 1) / 2; }

// Two places of one block of channels as 2 x 16 pairs.
struct Pairs {
  __m512i low, high;
};

PAIR_MACHINE inline Pairs interleaved(const Number* one, const Number* other) {
  alignas(64) static constexpr Number LOW[BLOCK] = {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                                    8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
  const __m512i low = _mm512_load_si512(LOW), high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
  const __m512i first = _mm512_loadu_si512(one), second = _mm512_loadu_si512(other);
  return {_mm512_permutex2var_epi16(first, low, second), _mm512_permutex2var_epi16(first, high, second)};
}

// One block of channels of a row of `width` pixels, at the pixels first, first + stride ... that `count` places see;
// beyond the row, and beyond the last place, there are zeros.
PAIR_MACHINE inline void pack(const Number* row, int64_t channels, int64_t width, int64_t first, int64_t stride, int64_t count,
                              Number* to) {
  const auto at_place = [&](int64_t place) {
    const int64_t x = first + place * stride;
    return place < count && x >= 0 && x < width ? row + x * channels : ZEROS;
  };
  for (int64_t place = 0; place < count; place += 2, to += PAIR) {
    const Pairs pairs = interleaved(at_place(place), at_place(place + 1));
    _mm512_store_si512(to, pairs.low);
    _mm512_store_si512(to + BLOCK, pairs.high);
  }
}

// Units are blocks of inputs at one dx, tiles groups of outputs. What one thread computes.
struct Part {
  int64_t first_unit, units;
  int64_t first_tile, tiles;
};

struct Arrays {
  const Number *gradient, *image;
  float* sums;
  Number* rounded;
};

// Cycles per pair of places: of a tile and a unit at one dy, and of packing either.
struct Costs {
  int64_t multiply, pack_unit, pack_tile;
};

// Into how many parts units and tiles are split, so that `threads` have least to do.
inline std::pair<int64_t, int64_t> split(int64_t units, int64_t tiles, int64_t kernel, int64_t threads, const Costs& costs) {
  std::pair<int64_t, int64_t> best{1, 1};
  int64_t least = std::numeric_limits<int64_t>::max();
  for (int64_t of_units = 1; of_units <= std::min(threads, units); ++of_units) {
    const int64_t of_tiles = std::min(threads / of_units, tiles);
    const int64_t most_units = (units + of_units - 1) / of_units, most_tiles = (tiles + of_tiles - 1) / of_tiles;
    const int64_t cycles =
        most_units * most_tiles * kernel * costs.multiply + most_units * costs.pack_unit + most_tiles * costs.pack_tile;
    if (cycles < least) {
      least = cycles;
      best = {of_units, of_tiles};
    }
  }
  return best;
}

// compute(part) for each of the parts, on as many threads as there are.
template <typename Compute>
void for_each_part(int64_t units, int64_t tiles, int64_t kernel, const Costs& costs, Compute compute) {
  const auto [of_units, of_tiles] = split(units, tiles, kernel, at::get_num_threads(), costs);
  at::parallel_for(0, of_units * of_tiles, 1, [&, of_units = of_units, of_tiles = of_tiles](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      const int64_t across = part / of_tiles, down = part % of_tiles;
      const int64_t unit = units * across / of_units, tile = tiles * down / of_tiles;
      compute(Part{unit, units * (across + 1) / of_units - unit, tile, tiles * (down + 1) / of_tiles - tile});
    }
  });
}

// With matrix tiles (kernel_gradient_tiles.cpp): whether this processor and system have them, whether an image has places
// enough for one, whether sums stay in tiles, and the gradient.
bool has_tiles();
bool tiles_are_filled(const Geometry& on);
bool tiles_have_one_chunk(const Geometry& on);
void compute_by_tiles(const Geometry& on, const Arrays& arrays);

}  // namespace orchestrator

#endif
