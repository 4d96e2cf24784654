#!/usr/bin/env python3
"""Prints lines of Rust per crate, production / tests, of commits: scripts/lines.py COMMIT...

Without blank lines and comments; each commit formatted by rustfmt's defaults at 100 columns, so that commits with other
formatting can be compared.
"""

import pathlib
import re
import subprocess
import sys
import tempfile


def count(commit):
    crates = {}
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(["git", "archive", commit], check=True, stdout=subprocess.PIPE)
        subprocess.run(["tar", "x", "-C", folder], check=True, input=archive.stdout)
        root = pathlib.Path(folder)
        (root / "rustfmt.toml").write_text("max_width = 100\n")
        files = sorted(file for top in ("src", "tests") for file in (root / top).rglob("*.rs"))
        subprocess.run(["rustfmt", "--edition", "2024", "--config-path", folder, *files], stderr=subprocess.DEVNULL)
        for file in files:
            path = file.relative_to(root)
            crate = path.parts[1] if path.parts[0] == "src" else "tests"
            text = file.read_text()
            module = re.search(r"#\[cfg\(test\)\]\s*mod \w+ \{", text)
            is_test = (
                "tests" in path.parts[:-1]
                or "examples" in path.parts
                or path.name.endswith("_tests.rs")
                or path.name.startswith("tests")
            )
            border = 0 if is_test else module.start() if module else len(text)
            lines = crates.setdefault(crate, [0, 0])
            for index, part in enumerate((text[:border], text[border:])):
                code = (line.strip() for line in part.split("\n"))
                lines[index] += sum(1 for line in code if line and not line.startswith("//"))
    return crates


def main():
    counts = [count(commit) for commit in sys.argv[1:]]
    for crate in sorted({crate for crates in counts for crate in crates}):
        print(crate, *("{} / {}".format(*crates.get(crate, (0, 0))) for crates in counts), sep="\t")
    totals = ([sum(lines[index] for lines in crates.values()) for index in (0, 1)] for crates in counts)
    print("all", *("{} / {}".format(*total) for total in totals), sep="\t")


if __name__ == "__main__":
    main()
