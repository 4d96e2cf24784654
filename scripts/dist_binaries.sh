#!/usr/bin/env bash
# Links both programs of `make build` once more, for old systems (scripts/old_glibc.sh), unless that was done with these.
#
#   scripts/dist_binaries.sh BINARIES DIST CARGO_ARGUMENTS...
#
# BINARIES holds the programs of `make build`, which the arguments make; DIST/bin gets those for packages.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PROGRAMS=(orchestrator orchestrator-trainer)

[ $# -gt 2 ] || { echo "usage: dist_binaries.sh BINARIES DIST CARGO_ARGUMENTS..." >&2; exit 1; }
binaries=$1 dist=$2
shift 2
"$here/old_glibc.sh" "$dist/glibc"
made_from=$(cd "$binaries" && cat "${PROGRAMS[@]}" "$dist/glibc/made-from" "$here"/{dist_binaries,old_glibc_link}.sh | sha256sum)
if [ "$(cat "$dist/bin/made-from" 2>/dev/null)" = "$made_from" ]; then exit; fi

rm -rf "$dist/bin" "$dist/of-this-machine"
mkdir -p "$dist/bin" "$dist/of-this-machine"
copy() { for program in "${PROGRAMS[@]}"; do cp "$1/$program" "$2/"; done; }
copy "$binaries" "$dist/of-this-machine"
# Those of `make build` return to their place, into the same files, of which cargo has a second link.
trap 'copy "$dist/of-this-machine" "$binaries"; rm -r "$dist/of-this-machine"' EXIT
trap 'exit 130' INT TERM HUP
# New times of the files that hold `main` make cargo compile these, and nothing that they use.
touch "$here/../src/cli/src/main.rs" "$here/../src/trainer/src/main.rs"
OLD_GLIBC=$dist/glibc RUSTC_WRAPPER=$here/old_glibc_link.sh "${CARGO:-cargo}" "$@"
copy "$binaries" "$dist/bin"
echo "$made_from" >"$dist/bin/made-from"
