#!/usr/bin/env bash
# Puts libtorch 2.11.0 into a folder, once: the pinned wheels of libtorch-cpu.txt, or of both lists where an NVIDIA
# driver is present (ORCHESTRATOR_CUDA=0 or 1 overrides). Everything is downloaded and unpacked beside the folder and
# checked there; one rename puts it in place, so that an interrupted run leaves nothing half-installed.
#
#   scripts/libtorch.sh DIRECTORY         installs into DIRECTORY unless it is there already
#   scripts/libtorch.sh --check LIBTORCH  only checks whether a libtorch of your own will do
set -euo pipefail

VERSION=2.11.0
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

say() { printf '%s\n' "$*" >&2; }
fail() {
  say "error: $1"
  shift
  for line in "$@"; do say "  $line"; done
  exit 1
}

# The version of a libtorch folder; a zip, a wheel and a source build have it in different places.
version_of() {
  local header=$1/include/torch/headeronly/version.h
  if [ -f "$1/build-version" ]; then
    head -n 1 "$1/build-version"
  elif [ -f "$1/version.py" ]; then
    sed -n "s/^__version__ *= *['\"]\\(.*\\)['\"].*/\\1/p" "$1/version.py"
  elif [ -f "$header" ]; then
    sed -n 's/^#define TORCH_VERSION_\(MAJOR\|MINOR\|PATCH\) \([0-9]*\).*/\2/p' "$header" | paste -sd.
  fi
}

check() {
  local libtorch=$1 version
  [ -d "$libtorch" ] || fail "LIBTORCH=$libtorch is not a directory" "unset LIBTORCH and make downloads the right one"
  for part in lib/libtorch_cpu.so lib/libc10.so include/ATen; do
    [ -e "$libtorch/$part" ] || fail "LIBTORCH=$libtorch has no $part" \
      "expected is an unpacked libtorch zip, or the torch folder of a Python environment; unset LIBTORCH and make downloads one"
  done
  version=$(version_of "$libtorch")
  [ -n "$version" ] || fail "LIBTORCH=$libtorch does not say which version it is" \
    "neither build-version nor version.py nor include/torch/headeronly/version.h is there"
  [ "${version%%+*}" = "$VERSION" ] || fail "LIBTORCH=$libtorch is version $version, needed is $VERSION" \
    "unset LIBTORCH and make downloads the right one"
}

kind() {
  case ${ORCHESTRATOR_CUDA:-} in
    0) echo cpu ;;
    1) echo cuda ;;
    "") if [ -e /proc/driver/nvidia/version ] || nvidia-smi -L >/dev/null 2>&1; then echo cuda; else echo cpu; fi ;;
    *) fail "ORCHESTRATOR_CUDA=$ORCHESTRATOR_CUDA is neither 0 nor 1" ;;
  esac
}

requirements() {
  grep -hv '^#' "$here/libtorch-cpu.txt"
  if [ "$1" = cuda ]; then grep -hv '^#' "$here/libtorch-cuda.txt"; fi
}

check_machine() {
  local glibc free_mib needed_mib
  [ "$(uname -sm)" = "Linux x86_64" ] || fail "libtorch is pinned for Linux on x86_64, and this is $(uname -sm)" \
    "set LIBTORCH to a libtorch $VERSION of your own"
  glibc=$(getconf GNU_LIBC_VERSION 2>/dev/null | cut -d' ' -f2)
  [ "$(printf '%s\n' 2.28 "${glibc:-0}" | sort -V | head -n 1)" = 2.28 ] || fail \
    "the pinned libtorch needs glibc 2.28 or newer, and this machine has ${glibc:-another C library}" \
    "set LIBTORCH to a libtorch $VERSION of your own"
  command -v python3 >/dev/null || fail "python3 is not installed" "on Debian: apt install python3 python3-pip"
  python3 -m pip --version >/dev/null 2>&1 || fail "python3 has no pip" "on Debian: apt install python3-pip"
  needed_mib=2000
  [ "$1" = cpu ] || needed_mib=9000
  free_mib=$(df -Pm "$2" | awk 'NR == 2 { print $4 }')
  [ "$free_mib" -ge "$needed_mib" ] || fail "$2 has $free_mib MiB free; libtorch needs $needed_mib while it is unpacked"
}

# Wheels for CPython 3.11 whatever the python3 here is: only their libraries are used.
download() {
  local requirements=$1 wheels=$2 log=$3 platforms=() minor
  for minor in 28 27 26 25 24 23 22 21 20 19 18 17; do platforms+=(--platform "manylinux_2_${minor}_x86_64"); done
  platforms+=(--platform manylinux2014_x86_64 --platform manylinux2010_x86_64 --platform manylinux1_x86_64)
  PIP_REQUIRE_VIRTUALENV=0 PIP_DISABLE_PIP_VERSION_CHECK=1 TMPDIR=$wheels \
    python3 -m pip download --no-cache-dir --no-deps --require-hashes --only-binary :all: --implementation cp \
    --python-version 3.11 "${platforms[@]}" --dest "$wheels" --requirement "$requirements" 2>"$log" >&2 && return
  cat "$log" >&2
  if grep -q 'DO NOT MATCH' "$log"; then
    fail "a download does not have the pinned checksum (see above)" \
      "a cut or altered download: try again; if it stays so, the package index or a proxy serves something else"
  elif grep -qi 'no space left' "$log"; then
    fail "the disk is full: $wheels"
  fi
  fail "pip could not download libtorch (see above)" "is the network reachable? a mirror is set with pip's own configuration"
}

install() {
  local target=$1 kind=$2 stamp=$3 partial wheel
  check_machine "$kind" "$(dirname "$target")"
  partial=$(mktemp -d "$target.partial.XXXXXX")
  # shellcheck disable=SC2064 # the folder's name as it is now
  trap "rm -rf '$partial'" EXIT
  trap 'exit 130' INT TERM HUP
  chmod 755 "$partial"
  mkdir "$partial/wheels" "$partial/site" "$partial/lib"
  requirements "$kind" >"$partial/requirements.txt"
  say "libtorch $VERSION for $kind: downloading $([ "$kind" = cpu ] && echo 0.5 || echo 2.6) GB into $target (once)"
  download "$partial/requirements.txt" "$partial/wheels" "$partial/pip.log"
  say "libtorch $VERSION: unpacking"
  for wheel in "$partial"/wheels/*.whl; do
    python3 "$here/unpack_wheel.py" "$wheel" "$partial/site" "$kind" || fail "libtorch was not installed"
    rm "$wheel"
  done
  rm -r "$partial/wheels" "$partial/requirements.txt" "$partial/pip.log"
  # What the linker may see. libtorch_cuda is not among it: the trainer opens it at run time where a GPU is, and one
  # binary serves both kinds of machine.
  for library in libtorch.so libtorch_cpu.so libc10.so libgomp.so.1; do
    ln -s "../site/torch/lib/$library" "$partial/lib/$library"
  done
  ln -s libgomp.so.1 "$partial/lib/libgomp.so"
  ln -s site/torch/include "$partial/include"
  printf '%s\n' "$VERSION" >"$partial/build-version"
  check "$partial"
  python3 -c 'import ctypes, sys; ctypes.CDLL(sys.argv[1])' "$partial/site/torch/lib/libtorch_cpu.so" ||
    fail "the unpacked libtorch does not load on this machine (see above)"
  printf '%s\n' "$stamp" >"$partial/installed-from"
  if [ -e "$target" ]; then mv "$target" "$partial.old"; fi
  mv "$partial" "$target"
  rm -rf "$partial.old"
}

main() {
  if [ "${1:-}" = --check ] && [ $# -eq 2 ]; then
    check "$2"
    return
  fi
  case $#:${1:-} in
    1:-* | 0:* | [!1]*) fail "usage: libtorch.sh DIRECTORY | libtorch.sh --check LIBTORCH" ;;
  esac
  local target kind stamp
  mkdir -p "$(dirname "$1")"
  target=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
  kind=$(kind)
  # The pins themselves: a change of them makes a new installation.
  stamp="$kind $(requirements "$kind" | sha256sum | cut -d' ' -f1)"
  if [ "$(cat "$target/installed-from" 2>/dev/null)" = "$stamp" ]; then return; fi
  # Two makes at once: the second waits and finds it done. What a killed run left is removed under the same lock.
  exec 9>"$target.lock"
  flock 9
  if [ "$(cat "$target/installed-from" 2>/dev/null)" = "$stamp" ]; then return; fi
  rm -rf "$target".partial.*
  install "$target" "$kind" "$stamp"
}

main "$@"
