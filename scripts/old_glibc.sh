#!/usr/bin/env bash
# Makes a folder that binaries are linked against to run with glibc 2.28 (RHEL 8, Debian 10), the oldest that libtorch runs
# with: zig's description of that glibc, and what gcc's headers here want that an old libstdc++ lacks.
#
#   scripts/old_glibc.sh DIRECTORY
#
# The compiler stays g++: zig's own C++ library has another ABI than libtorch's.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
GLIBC=2.28

[ $# -eq 1 ] || { echo "usage: old_glibc.sh DIRECTORY" >&2; exit 1; }
mkdir -p "$(dirname "$1")"
target=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
stamp=$(cat "$here/old_glibc.sh" "$here/old_libstdcxx.cpp" "$here/zig.txt" | sha256sum | cut -d' ' -f1)
if [ "$(cat "$target/made-from" 2>/dev/null)" = "$stamp" ]; then exit; fi

partial=$(mktemp -d "$target.partial.XXXXXX")
trap 'rm -rf "$partial"' EXIT
echo "fetching zig's description of glibc $GLIBC (0.1 GB, once)" >&2
python3 -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary :all: \
  --target "$partial/python" --requirement "$here/zig.txt"
zig=$partial/python/ziglang/zig
chmod +x "$zig"

# Linking any program makes zig write the libraries that it links against: names and versions of symbols, no code.
export ZIG_GLOBAL_CACHE_DIR=$partial/cache ZIG_LOCAL_CACHE_DIR=$partial/cache
echo 'int main(void) { return 0; }' >"$partial/main.c"
"$zig" cc -O2 -pie -target "x86_64-linux-gnu.$GLIBC" "$partial/main.c" -o "$partial/main"
mkdir "$partial/made"
find "$partial/cache" -type f \( -name 'lib*.so.*' -o -name libc_nonshared.a -o -name Scrt1.o \) \
  -exec cp -t "$partial/made" {} +
cd "$partial/made"
mv libld.so.2 ld-linux-x86-64.so.2
echo 'GROUP ( libc.so.6 libc_nonshared.a AS_NEEDED ( ld-linux-x86-64.so.2 ) )' >libc.so
for library in m pthread dl rt util; do ln -s lib$library.so.* "lib$library.so"; done
"${CXX:-g++}" -std=c++17 -O2 -fPIC -c "$here/old_libstdcxx.cpp" -o old_libstdcxx.o
echo "$stamp" >made-from
rm -rf "$target"
mv "$partial/made" "$target"
