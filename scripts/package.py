"""Packs both binaries for people who have no Rust: as a Python wheel, or as an archive that also holds libtorch.

    package.py wheel  --binaries DIR --output DIR
    package.py bundle --binaries DIR --output DIR --libtorch DIR --kind cpu|cuda

Only Python's standard library and binutils are used. maturin packs the binaries of one crate, and would copy the
libraries that the trainer is linked against into the wheel, which `orchestrator setup` fetches; hence a writer of our own:
a wheel is a zip archive with a list of what is in it.

Equal inputs give equal bytes: files are sorted, and every time is SOURCE_DATE_EPOCH (default: that of the last commit).
"""

import argparse
import base64
import hashlib
import io
import json
import os
import pathlib
import re
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
# `orchestrator` is another project's name in the public index.
DISTRIBUTION = "orchestrator_sweeps"
BINARIES = ("orchestrator", "orchestrator-trainer")
# Where the trainer looks for libtorch first (src/trainer/build.rs), from `bin`.
RUNPATH = "$ORIGIN/../lib/orchestrator/torch/lib"
# Of what CUDA's wheels hold, these serve profilers alone.
PROFILERS = ("libnvperf_", "libpcsamplingutil", "libcheckpoint")
PYTHON_ONLY = ("libtorch_python", "libshm")
USER_PAGES = ("sweep-file", "data", "results-folder", "cluster", "operations", "paper", "results", "performance")


def fail(message):
    sys.exit(f"error: {message}")


def run(*command, **options):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, **options).stdout


def version():
    return re.search(r'^version = "(.*)"', (ROOT / "Cargo.toml").read_text(), re.M).group(1)


def epoch():
    given = os.environ.get("SOURCE_DATE_EPOCH")
    return int(given or run("git", "-C", ROOT, "log", "-1", "--format=%ct"))


# --- the binaries -----------------------------------------------------------------------------------------------------


def machine_paths(libtorch):
    """Folders of the machine that built: sources of crates, the checkout, libtorch's headers."""
    cargo = pathlib.Path(os.environ.get("CARGO_HOME") or pathlib.Path.home() / ".cargo")
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
    folders = {*cargo.glob("registry/src/*"), *cargo.glob("git/checkouts/*"), cargo, target.absolute(), ROOT}
    if libtorch:
        folders |= {libtorch, libtorch.resolve()}
    return sorted((str(folder) for folder in folders), key=len, reverse=True)


def relocated(binary, paths):
    """Returns the binary without debug information and without a path of this machine.

    Messages of panics, and of checks in libtorch's headers, name source files. Their lengths are compiled in, so each
    folder of this machine is replaced by one of the same length; slashes fill it up. Cargo's `trim-paths`, which would not
    reach C++, is not in a stable Rust yet.
    """
    with tempfile.TemporaryDirectory() as folder:
        stripped = pathlib.Path(folder) / "stripped"
        run("strip", "-o", stripped, binary)
        content = stripped.read_bytes()
    # The rest of the list is where libtorch lies on this machine.
    listed = re.search(re.escape(RUNPATH.encode()) + rb"(:[^\0]*)\0", content)
    if listed:
        content = content[: listed.start(1)] + bytes(len(listed.group(1))) + content[listed.end(1) :]
    for path in paths:
        neutral = "source"[: len(path)].ljust(len(path), "/")
        content = content.replace(f"{path}/".encode(), f"{neutral}/".encode())
    for path in [*paths, str(pathlib.Path.home())]:
        if len(path) > 1 and f"{path}/".encode() in content:
            fail(f"{binary.name} still holds {path}")
    return content


def needed_glibc(contents):
    """Returns the newest glibc version that a binary asks for, as (2, 28)."""
    found = {(2, 17)}
    for content in contents:
        found |= {tuple(map(int, match.split(b"."))) for match in re.findall(rb"\0GLIBC_(2\.\d+)(?=\0)", content)}
    return max(found)


# --- what is packed ---------------------------------------------------------------------------------------------------


class Tree:
    """Files by their path in the package."""

    def __init__(self):
        self.files = {}

    def add(self, path, content, executable=False):
        self.files[str(path)] = (content, executable)

    def add_file(self, path, source):
        self.add(path, source.read_bytes(), os.access(source, os.X_OK))

    def add_folder(self, path, source):
        for file in sorted(source.rglob("*")):
            if file.is_file():
                self.add_file(pathlib.PurePosixPath(path) / file.relative_to(source).as_posix(), file)


def add_common(tree, prefix, binaries, libtorch):
    """Binaries, sweeps, deploy files, licences, completions and manual pages; `prefix` holds what has no usual place."""
    paths = machine_paths(libtorch)
    contents = {name: relocated(binaries / name, paths) for name in BINARIES}
    for name, content in contents.items():
        tree.add(f"bin/{name}", content, executable=True)
    tree.add_folder(f"{prefix}sweeps", ROOT / "sweeps")
    tree.add_folder(f"{prefix}deploy", ROOT / "deploy")
    for name in ("LICENSE", "LICENSE-MIT", "LICENSE-APACHE"):
        tree.add_file(f"{prefix}{name}", ROOT / name)
    tree.add(f"{prefix}licenses/crates.txt", crate_licences().encode())
    tree.add_file(f"{prefix}licenses/digits.md", ROOT / "src/data/digits/ATTRIBUTION.md")
    index = public_index()
    if index:
        tree.add("share/orchestrator/package-index", f"{index}\n".encode())
    for name in ("libtorch-cpu.txt", "libtorch-cuda.txt"):
        tree.add_file(f"share/orchestrator/{name}", ROOT / "scripts" / name)
    program = binaries / "orchestrator"
    for shell, path in (
        ("bash", "share/bash-completion/completions/orchestrator"),
        ("zsh", "share/zsh/site-functions/_orchestrator"),
        ("fish", "share/fish/vendor_completions.d/orchestrator.fish"),
    ):
        tree.add(path, run(program, "completions", shell))
    with tempfile.TemporaryDirectory() as pages:
        run(program, "man", pages)
        tree.add_folder("share/man/man1", pathlib.Path(pages))
    return needed_glibc(contents.values())


def public_index():
    """The package index that pip uses by default, as `orchestrator setup` does."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    command = (sys.executable, "-m", "pip", "download", "--help")
    answer = subprocess.run(
        command, env={**own, "PIP_CONFIG_FILE": os.devnull, "COLUMNS": "500"}, capture_output=True, text=True
    )
    found = re.search(r"\(default\s+(https://[^\s)]+)\)", answer.stdout)
    if not found:
        print("note: there is no pip here that names its index: `orchestrator setup` will need --index", file=sys.stderr)
    return found and found.group(1)


def crate_licences():
    """The licences of every crate that is compiled into the binaries."""
    metadata = json.loads(
        run(
            os.environ.get("CARGO", "cargo"), "metadata", "--format-version", "1", "--locked", "--offline",
            "--filter-platform", "x86_64-unknown-linux-gnu", cwd=ROOT,
        )
    )  # fmt: skip
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    waiting = [package["id"] for package in metadata["packages"] if package["name"] in ("cli", "trainer")]
    seen = set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for dependency in nodes[name]["deps"]:
            if any(kind["kind"] is None for kind in dependency["dep_kinds"]):
                waiting.append(dependency["pkg"])
    text, known = [], {}
    crates = [packages[name] for name in seen if packages[name]["source"]]
    for crate in sorted(crates, key=lambda crate: (crate["name"], crate["version"])):
        title = f"{crate['name']} {crate['version']}"
        text.append(f"{'=' * 80}\n{title}\nlicence: {crate['license'] or 'see below'}\nauthors: {', '.join(crate['authors'])}\n")
        folder = pathlib.Path(crate["manifest_path"]).parent
        for file in sorted(folder.iterdir()):
            if file.is_file() and re.match(r"(LICEN[CS]E|COPYING|NOTICE|UNLICENSE)", file.name, re.I):
                content = file.read_text(errors="replace").strip()
                if content in known:
                    text.append(f"\n{file.name}: as {known[content]}\n")
                else:
                    known[content] = f"{file.name} of {title}"
                    text.append(f"\n{file.name}:\n\n{content}\n")
    return "".join(text)


# --- the wheel --------------------------------------------------------------------------------------------------------


def wheel(arguments):
    tree = Tree()
    glibc = needed = add_common(tree, "share/orchestrator/", arguments.binaries, arguments.libtorch)
    tag = f"py3-none-manylinux_{glibc[0]}_{needed[1]}_x86_64"
    name = f"{DISTRIBUTION}-{version()}"
    entries = {}
    for path, (content, executable) in tree.files.items():
        folder, rest = path.split("/", 1)
        place = f"{name}.data/scripts/{rest}" if folder == "bin" else f"{name}.data/data/{path}"
        entries[place] = (content, executable)
    for source in sorted((ROOT / "python/orchestrator").iterdir()):
        if source.suffix == ".py" or source.name == "py.typed":
            entries[f"orchestrator/{source.name}"] = (source.read_bytes(), False)
    torch = re.search(r"^torch==(\S+)", (ROOT / "scripts/libtorch-cpu.txt").read_text(), re.M).group(1)
    metadata = (
        f"Metadata-Version: 2.1\nName: {DISTRIBUTION.replace('_', '-')}\nVersion: {version()}\n"
        "Summary: Trains sweeps of small-data experiments and fills in the table\n"
        "License: MIT OR Apache-2.0\nRequires-Python: >=3.9\nDescription-Content-Type: text/markdown\n"
        f"Provides-Extra: torch\nRequires-Dist: torch=={torch} ; extra == 'torch'\n\n"
        + (ROOT / "deploy/README.md").read_text()
    )
    info = f"{name}.dist-info"
    entries[f"{info}/METADATA"] = (metadata.encode(), False)
    entries[f"{info}/WHEEL"] = (
        f"Wheel-Version: 1.0\nGenerator: orchestrator\nRoot-Is-Purelib: false\nTag: {tag}\n".encode(),
        False,
    )
    for licence in ("LICENSE", "LICENSE-MIT", "LICENSE-APACHE"):
        entries[f"{info}/licenses/{licence}"] = ((ROOT / licence).read_bytes(), False)
    record = "".join(f"{path},sha256={digest(content)},{len(content)}\n" for path, (content, _) in sorted(entries.items()))
    entries[f"{info}/RECORD"] = (f"{record}{info}/RECORD,,\n".encode(), False)
    target = arguments.output / f"{name}-{tag}.whl"
    # A zip archive knows no time before 1980.
    date = time.gmtime(max(epoch(), 315532800))[:6]
    with replacing(target) as partial, zipfile.ZipFile(partial, "w") as archive:
        # pip wants the metadata last.
        for path, (content, executable) in sorted(entries.items(), key=lambda entry: (info in entry[0], entry[0])):
            member = zipfile.ZipInfo(path, date)
            member.external_attr = (0o100755 if executable else 0o100644) << 16
            member.create_system = 3
            archive.writestr(member, content, zipfile.ZIP_DEFLATED, arguments.level)
    return target


def digest(content):
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


# --- the bundle -------------------------------------------------------------------------------------------------------


def bundle(arguments):
    site = arguments.libtorch / "site"
    if not site.is_dir():
        fail(f"{arguments.libtorch} is no folder of scripts/libtorch.sh: it has no `site`")
    tree = Tree()
    glibc = add_common(tree, "", arguments.binaries, arguments.libtorch)
    libraries = needed_libraries(site, arguments.kind)
    with tempfile.TemporaryDirectory() as folder:
        for number, library in enumerate(libraries):
            stripped = pathlib.Path(folder) / str(number)
            run("strip", "--strip-unneeded", "-o", stripped, library)
            tree.add(f"lib/orchestrator/{library.relative_to(site).as_posix()}", stripped.read_bytes())
            stripped.unlink()
    for licence in sorted(site.glob("*.dist-info/**/*")):
        if licence.is_file() and re.match(r"(LICEN[CS]E|NOTICE|EULA)", licence.name, re.I):
            tree.add_file(f"licenses/libtorch/{licence.relative_to(site).as_posix()}", licence)
    tree.add_file("README.md", ROOT / "deploy/README.md")
    for page in USER_PAGES:
        tree.add_file(f"docs/{page}.md", ROOT / f"docs/{page}.md")
    print(f"needs glibc {glibc[0]}.{glibc[1]}", file=sys.stderr)
    name = f"orchestrator-{version()}-x86_64-linux-{arguments.kind}"
    target = arguments.output / f"{name}.tar.xz"
    with replacing(target) as partial, open(partial, "wb") as packed:
        # Blocks of a given size: the number of threads does not change the bytes.
        command = ("xz", f"-{arguments.level}", "-T2", "--block-size=32MiB", "-c")
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=packed) as packer:
            with tarfile.open(fileobj=packer.stdin, mode="w|", format=tarfile.PAX_FORMAT) as archive:
                for path, (content, executable) in sorted(tree.files.items()):
                    member = tarfile.TarInfo(f"{name}/{path}")
                    member.size, member.mtime = len(content), epoch()
                    member.mode = 0o755 if executable else 0o644
                    archive.addfile(member, io.BytesIO(content))
            packer.stdin.close()
        if packer.returncode:
            fail("xz failed (see above)")
    return target


def needed_libraries(site, kind):
    """The libraries that the trainer is linked against, and those that these are; for CUDA also what is opened by name."""
    known = {}
    for library in sorted(site.rglob("*.so*")):
        if library.relative_to(site).parts[0] == "nvidia" or library.parent == site / "torch/lib":
            known.setdefault(library.name, library)
    waiting = ["libtorch_cpu.so", "libc10.so", "libgomp.so.1"]
    if kind == "cuda":
        if "libtorch_cuda.so" not in known:
            fail(f"{site} is the kind for CPUs: install the other with ORCHESTRATOR_CUDA=1 scripts/libtorch.sh")
        waiting += [name for name in known if not name.startswith(PROFILERS + PYTHON_ONLY)]
    found = {}
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        if name not in known:
            fail(f"{site} has no {name}")
        found[name] = known[name]
        dynamic = run("readelf", "-d", known[name], stderr=subprocess.DEVNULL).decode()
        waiting += [other for other in re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic) if other in known]
    return sorted(found.values())


class replacing:
    """The path of a file beside the target, which takes its place at the end."""

    def __init__(self, target):
        self.target, self.partial = target, target.with_name(f"{target.name}.partial")

    def __enter__(self):
        self.target.parent.mkdir(parents=True, exist_ok=True)
        return self.partial

    def __exit__(self, kind, *_):
        if kind is None:
            self.partial.replace(self.target)
        else:
            self.partial.unlink(missing_ok=True)


def main():
    parser = argparse.ArgumentParser(description="Packs both binaries as a wheel or as a bundle.")
    parser.add_argument("form", choices=["wheel", "bundle"])
    parser.add_argument("--binaries", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--libtorch", type=pathlib.Path, help="a folder of scripts/libtorch.sh")
    parser.add_argument("--kind", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--level", type=int, default=6, help="how hard it compresses, 0 to 9")
    arguments = parser.parse_args()
    if arguments.form == "bundle" and not arguments.libtorch:
        parser.error("a bundle needs --libtorch")
    target = wheel(arguments) if arguments.form == "wheel" else bundle(arguments)
    print(f"{target}  {target.stat().st_size / 1e6:.1f} MB", file=sys.stderr)
    print(target)


if __name__ == "__main__":
    main()
