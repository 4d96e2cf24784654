// Moves the gradients of a backward pass into one buffer. Declared in src/network/gradients.rs.

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <array>
#include <map>
#include <vector>

#include "guarded.h"

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
}
