// Sixteen numbers at a time, of f32 or bf16 in memory and f32 in registers, on any machine: GCC's vector types become what
// the instruction set has. Everything is inlined into functions that are compiled once for each set (EACH_MACHINE).

#pragma once

#include <cstdint>
#include <cstring>

#define ONE_PASS __attribute__((always_inline)) inline
#define EACH_MACHINE __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))

namespace orchestrator {

constexpr int64_t LANES = 16;

using Floats = float __attribute__((vector_size(64)));
using Bits = uint32_t __attribute__((vector_size(64)));
using Halves = uint16_t __attribute__((vector_size(32)));
using Truths = int32_t __attribute__((vector_size(64)));

// The bits of a bf16; c10::BFloat16 in memory.
struct Bf16 {
  uint16_t bits;
};

ONE_PASS Floats load(const float* from) {
  Floats values;
  memcpy(&values, from, sizeof values);
  return values;
}

ONE_PASS void store(float* to, Floats values) { memcpy(to, &values, sizeof values); }

ONE_PASS Floats load(const Bf16* from) {
  Halves halves;
  memcpy(&halves, from, sizeof halves);
  return (Floats)(__builtin_convertvector(halves, Bits) << 16);
}

// To the nearest bf16, ties to even, as c10::BFloat16 rounds.
ONE_PASS void store(Bf16* to, Floats values) {
  const Bits bits = (Bits)values;
  const Bits rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const Truths not_numbers = (bits & 0x7fffffff) > 0x7f800000;
  const Halves halves = __builtin_convertvector(not_numbers ? Bits{} + 0x7fc0 : rounded, Halves);
  memcpy(to, &halves, sizeof halves);
}

ONE_PASS float load_one(const float* from) { return *from; }

ONE_PASS void store_one(float* to, float value) { *to = value; }

ONE_PASS float load_one(const Bf16* from) {
  const uint32_t bits = static_cast<uint32_t>(from->bits) << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

ONE_PASS void store_one(Bf16* to, float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  to->bits = static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
}

}  // namespace orchestrator
