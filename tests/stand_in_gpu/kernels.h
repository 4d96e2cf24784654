// The kernels of src/trainer/shim/norm_kernels.cu, by name. Each takes one argument, of `argument_bytes`.

#pragma once

#include <stddef.h>

namespace stand_in {

bool has_kernel(const char* name);
size_t argument_bytes();
// Returns true if every thread reached the same barriers.
bool run_kernel(const char* name, unsigned columns, unsigned rows, unsigned threads, const void* argument);

}  // namespace stand_in
