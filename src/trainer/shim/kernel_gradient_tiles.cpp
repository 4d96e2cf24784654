// The gradient of a convolution's kernels in bf16, with instructions that multiply matrix tiles (`amx_bf16`).
//
// One instruction adds [16 outputs, 32 places] x [32 places, 16 inputs] to [16 outputs, 16 inputs] in f32. The second operand
// is the panel of panels.h, the first has the places of an output one after the other: the same panel, transposed. Both have
// the same places in the same order, rows of odd length filled up with zeros, so that a row's neighbours are its neighbours in
// the image as well: an offset of dy rows is an offset in the panel, and the sum goes over whole images without a stop. Image
// rows that a stride keeps apart lie in as many groups. Denormal numbers count as zero, as in kernel_gradient.cpp.

#include "panels.h"

#if defined(__x86_64__)

#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>
#include <vector>

#define TILE_MACHINE __attribute__((target(PAIR_TARGET ",amx-tile,amx-bf16")))
// GCC does not know that tile instructions read and write memory.
#define MEMORY_SEEN asm volatile("" ::: "memory")

namespace orchestrator {
namespace {

constexpr int64_t SIDE = 16;             // rows of a tile, and numbers of a row of sums
constexpr int64_t DEPTH = 16;            // pairs of places of a tile
constexpr int64_t TILE = SIDE * BLOCK;   // bf16 numbers of a tile
constexpr int64_t CHUNK = 512;           // pairs: of a unit 64 KiB, which stays in the second-level cache with the gradients

// Rows of one image's output, with the places where their panels begin: of the gradient in tiles, of the image in pairs, for each
// group of rows.
struct Span {
  int64_t image, first_row, rows;
  int64_t gradient_at, tiles;
  std::vector<int64_t> image_at;
};

// Some spans, whose panels are made and multiplied before those of the next chunk.
struct Chunk {
  std::vector<Span> spans;
  int64_t tiles = 0, image_pairs = 0;
};

int64_t rows_of_group(const Geometry& on, int64_t rows, int64_t group) { return rows + (on.kernel - 1 - group) / on.stride; }

int64_t rows_of_span(const Geometry& on) { return std::clamp<int64_t>(CHUNK / pairs_of_row(on), 1, on.out_height); }

std::vector<Chunk> chunks_of(const Geometry& on) {
  const int64_t pairs = pairs_of_row(on), groups = std::min(on.stride, on.kernel);
  std::vector<Chunk> chunks(1);
  for (int64_t image = 0; image < on.batch; ++image) {
    for (int64_t row = 0; row < on.out_height; row += rows_of_span(on)) {
      const int64_t rows = std::min(rows_of_span(on), on.out_height - row), tiles = (rows * pairs + DEPTH - 1) / DEPTH;
      if (chunks.back().tiles && (chunks.back().tiles + tiles) * DEPTH > CHUNK + DEPTH) chunks.emplace_back();
      Chunk& chunk = chunks.back();
      Span span{image, row, rows, chunk.tiles, tiles, {}};
      chunk.tiles += tiles;
      for (int64_t group = 0; group < groups; ++group) {
        span.image_at.push_back(chunk.image_pairs);
        chunk.image_pairs += rows_of_group(on, rows, group) * pairs;
      }
      chunk.spans.push_back(std::move(span));
    }
  }
  return chunks;
}

// Sixteen by sixteen pairs: blocks of 1, 2, 4 and 8 change places across the diagonal.
PAIR_MACHINE void transpose(__m512i rows[SIDE]) {
  const __m512i numbers = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
#pragma GCC unroll 4
  for (int size = 1; size < SIDE; size *= 2) {
    const __m512i bit = _mm512_set1_epi32(size);
    const __mmask16 upper = _mm512_test_epi32_mask(numbers, bit);
    // the lower half of each pair of blocks from the first row, the upper one from the second; 16 chooses the second
    const __m512i above = _mm512_mask_add_epi32(numbers, upper, _mm512_sub_epi32(numbers, bit), _mm512_set1_epi32(16));
    const __m512i below = _mm512_mask_add_epi32(_mm512_add_epi32(numbers, bit), upper, numbers, _mm512_set1_epi32(16));
#pragma GCC unroll 16
    for (int row = 0; row < SIDE; ++row) {
      if (row & size) continue;
      const __m512i first = rows[row], second = rows[row | size];
      rows[row] = _mm512_permutex2var_epi32(first, above, second);
      rows[row | size] = _mm512_permutex2var_epi32(first, below, second);
    }
  }
}

// The gradient of a span and one block of outputs: tiles [16 outputs, 32 places] of its first 16 outputs, and of the others.
PAIR_MACHINE void pack_gradient(const Geometry& on, const Number* gradient, const Span& span, int64_t block, Number* low, Number* high) {
  const int64_t pairs = pairs_of_row(on), num_pairs = span.rows * pairs;
  const Number* rows = gradient + (span.image * on.out_height + span.first_row) * on.out_width * on.outputs + block * BLOCK;
  int64_t row = 0, pair = 0;
  for (int64_t tile = 0; tile < span.tiles; ++tile, low += TILE, high += TILE) {
    __m512i lows[SIDE], highs[SIDE];
    for (int64_t number = 0; number < DEPTH; ++number) {
      const Number *one = ZEROS, *other = ZEROS;
      if (tile * DEPTH + number < num_pairs) {
        one = rows + (row * on.out_width + 2 * pair) * on.outputs;
        if (2 * pair + 1 < on.out_width) other = one + on.outputs;
        if (++pair == pairs) pair = 0, ++row;
      }
      const Pairs both = interleaved(one, other);
      lows[number] = both.low, highs[number] = both.high;
    }
    transpose(lows), transpose(highs);
    for (int64_t output = 0; output < SIDE; ++output) {
      _mm512_store_si512(low + output * BLOCK, lows[output]);
      _mm512_store_si512(high + output * BLOCK, highs[output]);
    }
  }
}

// The image rows that a span sees at one dx, of one block of inputs.
void pack_image(const Geometry& on, const Number* image, const Span& span, int64_t dx, int64_t block, Number* panel) {
  const int64_t pairs = pairs_of_row(on);
  for (size_t group = 0; group < span.image_at.size(); ++group) {
    Number* to = panel + span.image_at[group] * PAIR;
    for (int64_t row = 0; row < rows_of_group(on, span.rows, group); ++row, to += pairs * PAIR) {
      const int64_t y = (span.first_row + row) * on.stride + static_cast<int64_t>(group) - on.padding;
      if (y < 0 || y >= on.height) {
        memset(to, 0, sizeof(Number) * pairs * PAIR);
        continue;
      }
      pack(image + (span.image * on.height + y) * on.width * on.inputs + block * BLOCK, on.inputs, on.width, dx - on.padding,
           on.stride, on.out_width, to);
    }
  }
}

// What is multiplied and added up.
struct Product {
  const Number *gradient, *image;
  int64_t tiles;
};

// Where the sums of 32 outputs and 32 inputs are: in f32 between chunks, in bf16 after the last one. Outputs are `apart` apart.
struct Target {
  float* sums;
  Number* rounded;
  int64_t apart;
  bool is_first, is_last;
};

TILE_MACHINE void round_tile(const float* tile, Number* to, int64_t apart) {
  for (int64_t row = 0; row < SIDE; ++row) {
    const __m256i rounded = (__m256i)_mm512_cvtneps_pbh(_mm512_load_ps(tile + row * SIDE));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + row * apart), rounded);
  }
}

// `other`: from the tiles of the first 16 outputs to those of the others.
TILE_MACHINE __attribute__((noinline)) void multiply(const std::vector<Product>& products, int64_t other, Target to) {
  const int64_t apart = sizeof(float) * to.apart, below = SIDE * to.apart;
  MEMORY_SEEN;
  if (to.is_first) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    _tile_loadd(0, to.sums, apart);
    _tile_loadd(1, to.sums + SIDE, apart);
    _tile_loadd(2, to.sums + below, apart);
    _tile_loadd(3, to.sums + below + SIDE, apart);
  }
  for (const Product& product : products) {
    const Number *gradient = product.gradient, *image = product.image;
    for (int64_t tile = 0; tile < product.tiles; ++tile, gradient += TILE, image += DEPTH * PAIR) {
      _tile_loadd(4, gradient, sizeof(Number) * BLOCK);
      _tile_loadd(6, image, sizeof(Number) * PAIR);
      _tile_loadd(7, image + BLOCK, sizeof(Number) * PAIR);
      _tile_loadd(5, gradient + other, sizeof(Number) * BLOCK);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  if (!to.is_last) {
    _tile_stored(0, to.sums, apart);
    _tile_stored(1, to.sums + SIDE, apart);
    _tile_stored(2, to.sums + below, apart);
    _tile_stored(3, to.sums + below + SIDE, apart);
    MEMORY_SEEN;
    return;
  }
  alignas(64) float sums[4][SIDE * SIDE];
  _tile_stored(0, sums[0], sizeof(float) * SIDE);
  _tile_stored(1, sums[1], sizeof(float) * SIDE);
  _tile_stored(2, sums[2], sizeof(float) * SIDE);
  _tile_stored(3, sums[3], sizeof(float) * SIDE);
  MEMORY_SEEN;
  round_tile(sums[0], to.rounded, to.apart);
  round_tile(sums[1], to.rounded + SIDE, to.apart);
  round_tile(sums[2], to.rounded + below, to.apart);
  round_tile(sums[3], to.rounded + below + SIDE, to.apart);
}

// All tiles are 16 rows of 64 bytes while it lives; then they are what they were before, as other code on the thread expects.
struct alignas(64) Configuration {
  uint8_t bytes[64];
};

class WholeTiles {
 public:
  TILE_MACHINE WholeTiles() {
    MEMORY_SEEN;
    _tile_storeconfig(&before_);
    MEMORY_SEEN;
    Configuration whole{};
    whole.bytes[0] = 1;                                               // the only palette
    for (int tile = 0; tile < 8; ++tile) {
      whole.bytes[16 + 2 * tile] = sizeof(Number) * BLOCK;            // of a row
      whole.bytes[48 + tile] = SIDE;                                  // rows
    }
    MEMORY_SEEN;
    _tile_loadconfig(&whole);
  }
  TILE_MACHINE ~WholeTiles() {
    MEMORY_SEEN;
    _tile_loadconfig(&before_);
  }
  WholeTiles(const WholeTiles&) = delete;
  WholeTiles& operator=(const WholeTiles&) = delete;

 private:
  Configuration before_{};
};

// Here a part's tiles are blocks of 32 outputs.
void compute(const Geometry& on, const std::vector<Chunk>& chunks, const Arrays& arrays, const Part& part) {
  const int64_t blocks = on.inputs / BLOCK, pairs = pairs_of_row(on), seen = on.seen();
  int64_t most_tiles = 0, most_pairs = 0;
  for (const Chunk& chunk : chunks) {
    most_tiles = std::max(most_tiles, chunk.tiles);
    most_pairs = std::max(most_pairs, chunk.image_pairs);
  }
  // A span's last tile reads on beyond its image; there are zeros in the gradient, and numbers in the image.
  const int64_t image_pairs = most_pairs + DEPTH;
  const Panels gradients = panels(part.tiles * most_tiles * DEPTH), images = panels(image_pairs);
  memset(images.get(), 0, sizeof(Number) * image_pairs * PAIR);
  const WholeTiles whole_tiles;
  std::vector<Product> products;
  for (const Chunk& chunk : chunks) {
    const int64_t other = chunk.tiles * TILE;
    const auto gradients_of = [&](int64_t tile) { return gradients.get() + (tile - part.first_tile) * 2 * other; };
    for (int64_t tile = part.first_tile; tile < part.first_tile + part.tiles; ++tile) {
      for (const Span& span : chunk.spans) {
        Number* low = gradients_of(tile) + span.gradient_at * TILE;
        pack_gradient(on, arrays.gradient, span, tile, low, low + other);
      }
    }
    for (int64_t unit = part.first_unit; unit < part.first_unit + part.units; ++unit) {
      const int64_t dx = unit / blocks, block = unit % blocks;
      for (const Span& span : chunk.spans) pack_image(on, arrays.image, span, dx, block, images.get());
      for (int64_t tile = part.first_tile; tile < part.first_tile + part.tiles; ++tile) {
        for (int64_t dy = 0; dy < on.kernel; ++dy) {
          products.clear();
          for (const Span& span : chunk.spans) {
            const int64_t image_at = span.image_at[dy % on.stride] + dy / on.stride * pairs;
            products.push_back({gradients_of(tile) + span.gradient_at * TILE, images.get() + image_at * PAIR, span.tiles});
          }
          const int64_t at = tile * BLOCK * seen + (dy * on.kernel + dx) * on.inputs + block * BLOCK;
          multiply(products, other,
                   {arrays.sums + at, arrays.rounded + at, seen, &chunk == &chunks.front(), &chunk == &chunks.back()});
        }
      }
    }
  }
}

}  // namespace

bool has_tiles() {
  // The system gives a process the tiles' registers when it asks (Linux, ARCH_REQ_XCOMP_PERM of XTILEDATA).
  static const bool has = __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-bf16") &&
                          __builtin_cpu_supports("avx512bf16") && syscall(SYS_arch_prctl, 0x1023, 18) == 0;
  return has;
}

// Measured: with half of a tile empty it is as fast as libtorch's product of matrices, with more than that slower.
bool tiles_are_filled(const Geometry& on) { return 2 * on.out_height * pairs_of_row(on) >= DEPTH; }

bool tiles_have_one_chunk(const Geometry& on) { return chunks_of(on).size() == 1; }

void compute_by_tiles(const Geometry& on, const Arrays& arrays) {
  const std::vector<Chunk> chunks = chunks_of(on);
  for_each_part(on.kernel * (on.inputs / BLOCK), on.outputs / BLOCK, on.kernel, {5, 6, 14},
                [&](const Part& part) { compute(on, chunks, arrays, part); });
}

}  // namespace orchestrator

#endif
