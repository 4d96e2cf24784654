#!/usr/bin/env bash
# Installs what the tests of `make test-cluster` need and this machine lacks, as root on Debian; elsewhere, and where
# the packages cannot be had, it names them and ends with 1.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin
lacking() {
  local program missing=()
  for program in slurmctld slurmd sbatch munged sshd ssh; do
    command -v "$program" >/dev/null || missing+=("$program")
  done
  echo "${missing[*]-}"
}
# sshd as root does not start without it.
if [ "$(id -u)" -eq 0 ]; then mkdir -p /run/sshd; fi
missing=$(lacking)
[ -n "$missing" ] || exit 0
if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
  echo "installing for the cluster tests: $missing" >&2
  # Only the programs are wanted: nothing of it is to be started as a service.
  { apt-get update -qq && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    slurm-wlm munge openssh-server openssh-client; } >/dev/null || true
  missing=$(lacking)
fi
[ -z "$missing" ] || {
  echo "error: the cluster tests need $missing (on Debian: apt install --no-install-recommends slurm-wlm munge openssh-server openssh-client)" >&2
  exit 1
}
