"""Unpacks what the trainer needs of one wheel: libraries, headers and licences, without the Python code.

    unpack_wheel.py WHEEL DIRECTORY KIND

KIND is `cpu` or `cuda`; without a GPU the half of libtorch that only CUDA uses is left out (0.5 GB). Called by
libtorch.sh, which has checked the wheel's hash.
"""

import pathlib
import sys
import zipfile

KEPT_OF_TORCH = ("torch/lib/", "torch/include/", "torch/version.py")
PYTHON_ONLY = ("torch/lib/libtorch_python.so", "torch/lib/libshm")
CUDA_ONLY = ("torch/lib/libtorch_cuda", "torch/lib/libtorch_nvshmem", "torch/lib/libcaffe2_nvrtc")


def is_kept(name, kind):
    top = name.split("/", 1)[0]
    if top.endswith(".dist-info"):
        return True
    if top == "torch":
        left_out = PYTHON_ONLY + (CUDA_ONLY if kind == "cpu" else ())
        return name.startswith(KEPT_OF_TORCH) and not name.startswith(left_out)
    return top == "nvidia" and not name.endswith((".a", ".py"))


def main():
    wheel, directory, kind = sys.argv[1:]
    root = pathlib.Path(directory)
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            if is_kept(member.filename, kind):
                archive.extract(member, root)


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(f"cannot unpack {sys.argv[1]}: {error}")
