#!/usr/bin/env bash
# Packs both binaries, what deploys them and the example sweeps into one tarball for a cluster. libtorch is not in it:
# deploy/bootstrap.sh fetches the kind that each machine needs into .libtorch, where the trainer looks for it.
#
#   scripts/dist.sh BINARIES OUTPUT_DIRECTORY VERSION
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
binaries=$1 output=$2 name=orchestrator-$3-x86_64-linux
staging=$(mktemp -d)
trap 'rm -rf "$staging"' EXIT
root=$staging/$name
mkdir -p "$root/bin" "$root/scripts" "$output"
install -s -m 755 "$binaries/orchestrator" "$binaries/orchestrator-trainer" "$root/bin/"
install -m 755 scripts/libtorch.sh "$root/scripts/"
install -m 644 scripts/libtorch-cpu.txt scripts/libtorch-cuda.txt scripts/unpack_wheel.py "$root/scripts/"
cp -r deploy sweeps docs README.md LICENSE LICENSE-MIT LICENSE-APACHE "$root/"
tar -C "$staging" --owner=0 --group=0 --sort=name -czf "$output/$name.tar.gz.partial" "$name"
mv "$output/$name.tar.gz.partial" "$output/$name.tar.gz"
echo "$output/$name.tar.gz"
