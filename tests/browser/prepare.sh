#!/usr/bin/env bash
# Gets what `make test-browser` needs: Chromium with its driver, as root on Debian, and axe-core, which becomes the file that is
# given. axe-core (MPL-2.0) is a tool of these tests and no part of the program. Ends with 1 where they cannot be had.
set -euo pipefail
axe=$1
package=axe-playwright-python==0.1.8
sum=84494fec757e4710dc751c8d7a636e457f4532f08f85c86dc9070133fbff53bc
lacking() {
  local program missing=()
  for program in chromium chromedriver; do
    command -v "$program" >/dev/null || missing+=("$program")
  done
  echo "${missing[*]-}"
}
missing=$(lacking)
if [ -n "$missing" ] && [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
  echo "installing for the tests of the page: $missing" >&2
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium chromium-driver fonts-dejavu-core; } \
    >/dev/null || true
  missing=$(lacking)
fi
[ -z "$missing" ] || {
  echo "error: the tests of the page need $missing (on Debian: apt install --no-install-recommends chromium chromium-driver fonts-dejavu-core)" >&2
  exit 1
}
if [ -f "$axe" ] && echo "$sum  $axe" | sha256sum --check --quiet - 2>/dev/null; then exit 0; fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# A package for Python that carries the file: pip is there wherever the other tests run.
python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$folder" "$package" >&2 || {
  echo "error: the tests of the page need axe-core, from the Python package $package" >&2
  exit 1
}
python3 - "$folder"/*.whl "$axe" <<'EOF'
import sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as wheel, open(sys.argv[2], "wb") as file:
    file.write(wheel.read("axe_playwright_python/axe.min.js"))
EOF
echo "$sum  $axe" | sha256sum --check --quiet - >&2
