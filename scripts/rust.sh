#!/usr/bin/env bash
# Checks that the Rust tool chain is new enough for this workspace (`rust-version` in Cargo.toml): an old one ends with
# errors about editions or single crates instead. Checks `CARGO` and `RUSTC`, or what is on PATH.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
  printf 'error: %s\n' "$1" >&2
  printf '  install or update Rust as https://rustup.rs says (needs no root); with rustup: rustup update stable\n' >&2
  exit 1
}

needed=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
for tool in "${CARGO:-cargo}" "${RUSTC:-rustc}"; do
  command -v "$tool" >/dev/null || fail "$tool is not installed; needed is Rust $needed or newer"
  said=$("$tool" --version) || fail "$tool --version does not run (see above); needed is Rust $needed or newer"
  # `cargo 1.95.0 (...)`, `rustc 1.96.0-nightly (...)`
  found=$(cut -d' ' -f2 <<<"${said%%$'\n'*}")
  [ "$(printf '%s\n' "$needed" "${found%%-*}" | sort -V | head -n 1)" = "$needed" ] ||
    fail "$tool is version $found, needed is Rust $needed or newer"
done
