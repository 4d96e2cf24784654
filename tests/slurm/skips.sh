#!/usr/bin/env bash
# Prints `--skip NAME` for each test of `make test-cluster` that this machine cannot run, and the reason on stderr.
set -euo pipefail
skip() {
  echo "SKIPPED: the tests named $1...: $2" >&2
  echo "--skip $1"
}
[ "$(id -u)" -eq 0 ] || skip a_full_disk "only root can mount a small file system"
[ "$(id -u)" -eq 0 ] && [ -w /sys/fs/cgroup/memory/tasks ] && [ -w /sys/fs/cgroup/cpuset/tasks ] ||
  skip a_confined_job "no cgroups (version 1) that can be written"
