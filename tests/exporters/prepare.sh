#!/usr/bin/env bash
# Makes the Python environment of `make test-exporters` in the folder that is given; does nothing if it is there. Ends with
# 1 where its packages cannot be had.
set -euo pipefail
folder=$1
requirements=$(dirname "${BASH_SOURCE[0]}")/requirements.txt
if cmp -s "$requirements" "$folder/installed"; then exit 0; fi
rm -rf "$folder"
# pip's words on stderr, and no more of them than there are problems
python3 -m venv "$folder" >&2 && "$folder/bin/pip" install --quiet --disable-pip-version-check -r "$requirements" >&2 || {
  echo "error: the tests of exporters need Python's venv module and the packages of $requirements" >&2
  exit 1
}
cp "$requirements" "$folder/installed"
