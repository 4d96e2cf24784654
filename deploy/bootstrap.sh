#!/usr/bin/env bash
# Prepares one machine to run a worker (or a coordinator): from a source checkout or from the tarball of `make dist`.
# Fetches the libtorch that the machine needs, and shows that the trainer starts and sees the devices.
#
#   deploy/bootstrap.sh             checks, and says what is missing
#   deploy/bootstrap.sh --install   installs missing Debian packages too (as root, or with a sudo that asks nothing)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
  printf 'error: %s\n' "$1" >&2
  exit 1
}

install_packages=false
case $#:${1:-} in
  0:) ;;
  1:--install) install_packages=true ;;
  *) fail "usage: deploy/bootstrap.sh [--install]" ;;
esac

from_source=true
if [ -x bin/orchestrator-trainer ]; then from_source=false; fi

missing=()
command -v python3 >/dev/null || missing+=(python3)
python3 -m pip --version >/dev/null 2>&1 || missing+=(python3-pip)
if $from_source; then
  command -v g++ >/dev/null || missing+=(g++)
  command -v make >/dev/null || missing+=(make)
  scripts/rust.sh
fi

if [ ${#missing[@]} -gt 0 ]; then
  $install_packages || fail "missing: ${missing[*]} (on Debian: apt install ${missing[*]}, or run this with --install)"
  command -v apt-get >/dev/null || fail "missing: ${missing[*]}, and there is no apt-get here to install them with"
  as_root=()
  if [ "$(id -u)" != 0 ]; then
    sudo -n true 2>/dev/null || fail "missing: ${missing[*]}, and installing them needs root"
    as_root=(sudo -n)
  fi
  "${as_root[@]}" apt-get update -q
  "${as_root[@]}" apt-get install -y -q --no-install-recommends "${missing[@]}"
fi

if $from_source; then
  make build
  binaries=${CARGO_TARGET_DIR:-target}/release
else
  scripts/libtorch.sh .libtorch
  binaries=bin
fi

"$binaries/orchestrator" --version
"$binaries/orchestrator-trainer" devices || fail "the trainer does not run on this machine (see above)"
echo "ready: $PWD/$binaries/orchestrator worker --coordinator http://HOST:PORT --token-file FILE"
