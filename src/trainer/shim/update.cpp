// Gradients, and weights on the CPU, with as few passes over memory as there can be. Declared in src/update.rs.
//
// libtorch's own operations (optimiser.rs) need six passes for an update. Each operation of it here rounds like its
// counterpart there: the bits are the same, and a test holds that. Therefore this file is built without contraction of
// a * b + c, and says `fma` where libtorch has one.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <map>
#include <vector>

#include "guarded.h"
#include "lanes.h"

namespace {

// As in src/update.rs.
struct Rule {
  float learning_rate;
  float momentum;
  float decay;
  bool keras;
  bool nesterov;
  bool decays;
};

struct Buffers {
  float* weights;
  const float* gradients;
  float* momentum;
  // bf16 copy of the first `num_working` weights
  uint16_t* working;
  int64_t num_working;
};

template <bool keras, bool nesterov, bool decays>
ONE_PASS void pass(const Buffers& buffers, const Rule& rule, int64_t begin, int64_t end) {
  float* __restrict weights = buffers.weights;
  float* __restrict momentum = buffers.momentum;
  const float* __restrict gradients = buffers.gradients;
  const float rate = rule.learning_rate, kept = rule.momentum, decay = rule.decay;
  for (int64_t i = begin; i < end; ++i) {
    float weight = weights[i], gradient = gradients[i], moved = momentum[i] * kept;
    // libtorch's addcmul rounds once
    if (decays) gradient = __builtin_fmaf(weight, decay, gradient);
    if (keras) {
      gradient = gradient * -rate;
      moved = moved + gradient;
      weight = nesterov ? (weight + gradient) + moved * kept : weight + moved;
    } else {
      moved = moved + gradient;
      weight = weight - (nesterov ? gradient + moved * kept : moved) * rate;
    }
    momentum[i] = moved;
    weights[i] = weight;
  }
}

// To the nearest bf16, ties to even, as c10::BFloat16 rounds.
ONE_PASS void round(const Buffers& buffers, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    uint32_t bits;
    memcpy(&bits, &buffers.weights[i], sizeof bits);
    const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    buffers.working[i] = static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
  }
}

EACH_MACHINE void update(Buffers buffers, Rule rule, int64_t begin, int64_t end) {
  switch (rule.keras * 4 + rule.nesterov * 2 + rule.decays) {
    case 0: pass<false, false, false>(buffers, rule, begin, end); break;
    case 1: pass<false, false, true>(buffers, rule, begin, end); break;
    case 2: pass<false, true, false>(buffers, rule, begin, end); break;
    case 3: pass<false, true, true>(buffers, rule, begin, end); break;
    case 4: pass<true, false, false>(buffers, rule, begin, end); break;
    case 5: pass<true, false, true>(buffers, rule, begin, end); break;
    case 6: pass<true, true, false>(buffers, rule, begin, end); break;
    default: pass<true, true, true>(buffers, rule, begin, end);
  }
  round(buffers, begin, end < buffers.num_working ? end : buffers.num_working);
}

// Values that a core works on before it rounds them: they are still in its cache then.
constexpr int64_t BLOCK = 8192;

}  // namespace

extern "C" {

char* shim_collect_gradients(at::Tensor** leaves, at::Tensor** places, int64_t count) {
  return orchestrator::guarded([&] {
    c10::AutoGradMode guard(false);
    // by number format, because only lists of one are a few kernels on a GPU
    std::map<at::ScalarType, std::array<std::vector<at::Tensor>, 2>> moves;
    std::vector<at::Tensor> without;
    for (int64_t i = 0; i < count; ++i) {
      at::Tensor& gradient = leaves[i]->mutable_grad();
      if (gradient.defined()) {
        auto& [to, from] = moves[gradient.scalar_type()];
        to.push_back(*places[i]);
        from.push_back(std::move(gradient));
        gradient = at::Tensor();
      } else {
        without.push_back(*places[i]);
      }
    }
    for (auto& [format, move] : moves) at::_foreach_copy_(move[0], move[1]);
    if (!without.empty()) at::_foreach_zero_(without);
  });
}

char* shim_forget_gradients(at::Tensor** leaves, int64_t count) {
  return orchestrator::guarded([&] {
    for (int64_t i = 0; i < count; ++i) leaves[i]->mutable_grad() = at::Tensor();
  });
}

void shim_update_weights(const Buffers* buffers, const Rule* rule, int64_t begin, int64_t end) {
  at::parallel_for(begin, end, BLOCK, [&](int64_t first, int64_t last) {
    for (int64_t start = first; start < last; start += BLOCK) {
      update(*buffers, *rule, start, start + BLOCK < last ? start + BLOCK : last);
    }
  });
}
}
