// libnccl.so.2 of the stand-in GPU: groups of threads of one process.
//
// A collective blocks its stream until every rank has queued it; the last rank does the arithmetic, in f64. An aborted
// communicator releases its stream and leaves the others waiting, as NCCL does. STAND_IN_NCCL_FAULT=`stuck@N`: the N-th
// collective of rank 1 never reaches the others.

// nccl.h includes these headers, which need some of CUDA's tool chain, for types that are not used
#define __CUDA_FP16_H__
#define __CUDA_BF16_H__
#define __CUDA_FP8_H__
#include <nccl.h>
#include <string.h>

#include <cstdlib>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "device.h"

namespace {

struct Offer {
  void* data;
  size_t count;
  ncclDataType_t type;
  stand_in::Flag done;
};

struct Collective {
  bool sums;
  std::map<int, Offer> offers;
};

struct Group {
  std::mutex mutex;
  int size;
  int num_joined = 0;
  std::map<uint64_t, Collective> open;
};

struct Communicator {
  std::shared_ptr<Group> group;
  int rank;
  uint64_t num_begun = 0;
  std::vector<stand_in::Flag> waiting;
};

std::mutex groups_mutex;
std::map<std::string, std::weak_ptr<Group>> groups;

Communicator* of(ncclComm_t raw) { return reinterpret_cast<Communicator*>(raw); }

float from_bf16(uint16_t bits) {
  uint32_t wide = uint32_t{bits} << 16;
  float value;
  memcpy(&value, &wide, sizeof value);
  return value;
}

uint16_t to_bf16(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

size_t width(ncclDataType_t type) {
  switch (type) {
    case ncclUint8: return 1;
    case ncclBfloat16: return 2;
    case ncclInt: case ncclFloat: return 4;
    default: return 8;
  }
}

double get(const Offer& offer, size_t i) {
  switch (offer.type) {
    case ncclFloat: return static_cast<float*>(offer.data)[i];
    case ncclBfloat16: return from_bf16(static_cast<uint16_t*>(offer.data)[i]);
    case ncclInt64: return static_cast<double>(static_cast<int64_t*>(offer.data)[i]);
    case ncclInt: return static_cast<int32_t*>(offer.data)[i];
    case ncclUint8: return static_cast<uint8_t*>(offer.data)[i];
    default: return static_cast<double*>(offer.data)[i];
  }
}

void set(const Offer& offer, size_t i, double value) {
  switch (offer.type) {
    case ncclFloat: static_cast<float*>(offer.data)[i] = static_cast<float>(value); break;
    case ncclBfloat16: static_cast<uint16_t*>(offer.data)[i] = to_bf16(static_cast<float>(value)); break;
    case ncclInt64: static_cast<int64_t*>(offer.data)[i] = static_cast<int64_t>(value); break;
    case ncclInt: static_cast<int32_t*>(offer.data)[i] = static_cast<int32_t>(value); break;
    case ncclUint8: static_cast<uint8_t*>(offer.data)[i] = static_cast<uint8_t>(value); break;
    default: static_cast<double*>(offer.data)[i] = value;
  }
}

void complete(Collective& collective) {
  Offer& first = collective.offers.at(0);
  for (size_t i = 0; collective.sums && i < first.count; ++i) {
    double sum = 0;
    for (auto& [rank, offer] : collective.offers) sum += get(offer, i);
    for (auto& [rank, offer] : collective.offers) set(offer, i, sum);
  }
  for (auto& [rank, offer] : collective.offers) {
    if (!collective.sums && rank != 0) memcpy(offer.data, first.data, first.count * width(first.type));
    offer.done->store(true);
  }
}

bool is_lost(int rank) {
  static const char* fault = getenv("STAND_IN_NCCL_FAULT");
  static std::atomic<long> left{fault && strncmp(fault, "stuck@", 6) == 0 ? atol(fault + 6) : -1};
  return rank == 1 && left.load() > 0 && left.fetch_sub(1) == 1;
}

ncclResult_t begin(bool sums, const void* from, void* to, size_t count, ncclDataType_t type, ncclComm_t raw,
                   cudaStream_t stream) {
  if (stand_in::health() != cudaSuccess) return ncclUnhandledCudaError;
  if (from != to || !stand_in::is_device_memory(to, count * width(type))) return ncclInvalidArgument;
  Communicator* communicator = of(raw);
  auto done = std::make_shared<std::atomic<bool>>(false);
  // earlier work in the stream is done, because work is done when it is queued
  if (stand_in::submit(stream, [] {}) != cudaSuccess) return ncclUnhandledCudaError;
  stand_in::block(stream, done);
  communicator->waiting.push_back(done);
  if (is_lost(communicator->rank)) return ncclSuccess;
  std::lock_guard<std::mutex> lock(communicator->group->mutex);
  uint64_t number = communicator->num_begun++;
  Collective& collective = communicator->group->open[number];
  collective.sums = sums;
  collective.offers[communicator->rank] = {to, count, type, done};
  if (collective.offers.size() == static_cast<size_t>(communicator->group->size)) {
    complete(collective);
    communicator->group->open.erase(number);
  }
  return ncclSuccess;
}

}  // namespace

extern "C" {

ncclResult_t ncclGetVersion(int* version) {
  *version = NCCL_VERSION_CODE;
  return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  static std::atomic<uint64_t> next{1};
  memset(id, 0, sizeof *id);
  uint64_t number = next++;
  memcpy(id->internal, &number, sizeof number);
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* result, int size, ncclUniqueId id, int rank, ncclConfig_t* config) {
  if (!config || config->magic != 0xcafebeef || config->blocking != 0 || rank >= size) return ncclInvalidArgument;
  std::lock_guard<std::mutex> lock(groups_mutex);
  auto& known = groups[std::string(id.internal, sizeof id.internal)];
  auto group = known.lock();
  if (!group) {
    group = std::make_shared<Group>();
    group->size = size;
    known = group;
  }
  ++group->num_joined;
  *result = reinterpret_cast<ncclComm_t>(new Communicator{group, rank});
  return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t raw, ncclResult_t* state) {
  auto& group = *of(raw)->group;
  std::lock_guard<std::mutex> lock(group.mutex);
  *state = stand_in::health() != cudaSuccess     ? ncclUnhandledCudaError
           : group.num_joined < group.size ? ncclInProgress
                                                 : ncclSuccess;
  return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t) { return ncclSuccess; }

ncclResult_t ncclCommDestroy(ncclComm_t raw) {
  delete of(raw);
  return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t raw) {
  Communicator* communicator = of(raw);
  {
    // no other rank may write to this rank's memory any more
    std::lock_guard<std::mutex> lock(communicator->group->mutex);
    for (auto& [number, collective] : communicator->group->open) collective.offers.erase(communicator->rank);
  }
  for (auto& flag : communicator->waiting) flag->store(true);
  delete communicator;
  return ncclSuccess;
}

ncclResult_t ncclAllReduce(const void* from, void* to, size_t count, ncclDataType_t type, ncclRedOp_t operation,
                           ncclComm_t communicator, cudaStream_t stream) {
  if (operation != ncclSum) return ncclInvalidArgument;
  return begin(true, from, to, count, type, communicator, stream);
}

ncclResult_t ncclBroadcast(const void* from, void* to, size_t count, ncclDataType_t type, int root,
                           ncclComm_t communicator, cudaStream_t stream) {
  if (root != 0) return ncclInvalidArgument;
  return begin(false, from, to, count, type, communicator, stream);
}

ncclResult_t ncclGroupStart() { return ncclSuccess; }
ncclResult_t ncclGroupEnd() { return ncclSuccess; }
const char* ncclGetErrorString(ncclResult_t result) {
  return result == ncclInProgress ? "NCCL operation in progress" : "an error of the stand-in NCCL";
}
const char* ncclGetLastError(ncclComm_t) { return ""; }

}
