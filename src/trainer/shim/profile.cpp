// libtorch's profiler, the one behind torch.profiler. Declared in src/device/profile.rs.

#include <torch/csrc/autograd/profiler_kineto.h>

#include "guarded.h"

extern "C" {

// From here on, what this thread does is noted: its operations, and with `cuda` also kernels and calls of CUDA's runtime.
char* shim_profile_begin(bool cuda) {
  return orchestrator::guarded([&] {
    using torch::profiler::impl::ActivityType;
    torch::profiler::impl::ProfilerConfig config(torch::profiler::impl::ProfilerState::KINETO);
    std::set<ActivityType> activities{ActivityType::CPU};
    if (cuda) activities.insert(ActivityType::CUDA);
    torch::autograd::profiler::prepareProfiler(config, activities);
    torch::autograd::profiler::enableProfiler(config, activities);
  });
}

// Writes it as a trace (JSON, as Chrome reads it).
char* shim_profile_end(const char* path) {
  return orchestrator::guarded([&] { torch::autograd::profiler::disableProfiler()->save(path); });
}
}
