#!/usr/bin/env bash
# Makes a libtorch whose GPU is the stand-in: that of LIBTORCH, which must be the CUDA kind, linked file by file into
# DIRECTORY, with CUDA's runtime and NCCL replaced and NVML beside them.
#
#   tests/stand_in_gpu/build.sh LIBTORCH DIRECTORY
set -euo pipefail

libtorch=$1
directory=$2
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

rm -rf "$directory"
mkdir -p "$directory"
cp -al "$libtorch/site" "$directory/site"
torch=$directory/site/torch/lib
runtime=$directory/site/nvidia/cu13/lib
nccl=$directory/site/nvidia/nccl/lib
# a link shares its file with the original
rm "$runtime/libcudart.so.13" "$nccl/libnccl.so.2"

compile() { "${CXX:-g++}" -std=c++17 -O1 -fPIC -D_GLIBCXX_USE_CXX11_ABI=1 -I"$libtorch/site/nvidia/cu13/include" "$@"; }

echo 'libcudart.so.13 { global: *; };' >"$directory/cudart.map"
compile -shared -ffp-contract=off -U_FORTIFY_SOURCE -o "$runtime/libcudart.so.13" -Wl,-soname,libcudart.so.13 \
  -Wl,--version-script="$directory/cudart.map" "$here/devices.cpp" "$here/streams.cpp" "$here/launches.cpp" "$here/kernels.cpp" -ldl -lpthread
compile -shared -o "$runtime/libstand_in_operators.so" -I"$libtorch/include" \
  -I"$libtorch/include/torch/csrc/api/include" "$here/operators.cpp" "$runtime/libcudart.so.13" \
  -L"$torch" -ltorch_cpu -lc10 -lc10_cuda -Wl,-rpath,"$torch" -Wl,--allow-shlib-undefined
compile -shared -o "$nccl/libnccl.so.2" -Wl,-soname,libnccl.so.2 -I"$libtorch/site/nvidia/nccl/include" \
  "$here/nccl.cpp" "$here/nccl_absent.cpp" "$runtime/libcudart.so.13"
compile -shared -o "$torch/libcuda.so.1" -Wl,-soname,libcuda.so.1 "$here/driver.cpp"
compile -shared -o "$torch/libnvidia-ml.so.1" -Wl,-soname,libnvidia-ml.so.1 "$here/nvml.cpp"
install -D "$here/nvidia-smi" "$directory/bin/nvidia-smi"
