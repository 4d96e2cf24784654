#!/usr/bin/env python3
"""Makes the digits of this folder from scikit-learn's digits.csv.gz: `convert.py digits.csv.gz OUT_DIR`.

Get the input with `pip download --no-deps scikit-learn` and `unzip scikit_learn*.whl sklearn/datasets/data/digits.csv.gz`.
The split is fixed and stratified: of the n images of a class, in file order, numbers floor((k + 1/2) n / 50) for
k = 0..49 are test images. Output: gzipped IDX files, pixel values 0..16 as in the source.
"""
import csv
import gzip
import struct
import sys
from pathlib import Path

TEST_PER_CLASS = 50


def write_idx(path, shape, values):
    header = struct.pack(">HBB", 0, 8, len(shape)) + b"".join(struct.pack(">I", side) for side in shape)
    with open(path, "wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as packed:
        packed.write(header + bytes(values))


def main(source, out):
    with gzip.open(source, "rt") as file:
        rows = [[int(float(value)) for value in row] for row in csv.reader(file)]
    assert len(rows) == 1797 and all(len(row) == 65 and max(row[:64]) <= 16 for row in rows)
    test = set()
    for digit in range(10):
        members = [index for index, row in enumerate(rows) if row[64] == digit]
        test.update(members[(2 * k + 1) * len(members) // (2 * TEST_PER_CLASS)] for k in range(TEST_PER_CLASS))
    for name, chosen in [("train", lambda index: index not in test), ("test", lambda index: index in test)]:
        split = [row for index, row in enumerate(rows) if chosen(index)]
        write_idx(Path(out) / f"{name}-labels.idx.gz", [len(split)], [row[64] for row in split])
        write_idx(Path(out) / f"{name}-images.idx.gz", [len(split), 8, 8], [v for row in split for v in row[:64]])
        print(name, len(split), [sum(row[64] == digit for row in split) for digit in range(10)])


if __name__ == "__main__":
    main(*sys.argv[1:])
