#!/usr/bin/env bash
# Cargo's RUSTC_WRAPPER where packages are made: links both programs against the folder of scripts/old_glibc.sh, which
# OLD_GLIBC names, and passes every other call on as it is. Unlike flags, cargo does not count a wrapper as part of a build:
# the crates are those of `make build`, and only what is out of date comes here.
set -euo pipefail
link() { arguments+=(-C "link-arg=$1"); }

arguments=()
case " $* " in
  *" --crate-name orchestrator --"*"--crate-type bin "*) program=rust ;;
  *" --crate-name orchestrator_trainer --"*"--crate-type bin "*) program=c++ ;;
  *) program= ;;
esac
if [ -n "$program" ]; then
  link "-B$OLD_GLIBC"
  link "-L$OLD_GLIBC"
  # The id of a build would depend on debug information, which names a folder for temporary files.
  link -Wl,--allow-shlib-undefined,--build-id=none
fi
if [ "$program" = c++ ]; then link "$OLD_GLIBC/old_libstdcxx.o"; fi
exec "$@" "${arguments[@]}"
