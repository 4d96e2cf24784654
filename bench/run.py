"""Times this program against PyTorch on the same libtorch, interleaved in one run; see README.md beside this file.

    run.py --binaries target/release [CASE ...] [--pairs N] [--write docs/performance.md]

Ratios are this program's images per second over the reference's (or the reference's seconds over this program's):
above 1 this program is faster. Every line is the median of ratios of neighbouring measurements, with the smallest and
the largest of them; absolute numbers stand beside it for orientation only.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
REFERENCE = HERE / "reference" / "train.py"

# model, image side, batch size
STEP_CASES = [("resnet-20", 32, 128), ("resnet-18", 64, 32), ("resnet-18", 224, 8), ("resnet-50", 224, 8)]
GATE_TOLERANCE = {"f32-nchw": 1e-5, "bf16-nhwc": 1e-2}
# At larger ones the last bits, which differ because the optimisers round in another order, grow tenfold every few steps.
GATE_LEARNING_RATE = 3e-4
# One switch at a time, each against the line before it.
ABLATION = ["f32-nchw", "f32-nhwc", "bf16-nhwc"]
SECONDS_PER_BLOCK = 3.0


def fail(message):
    sys.exit(f"error: {message}")


def environment(folder):
    """The interpreter of the throw-away environment, made at the first call."""
    python = folder / "bin" / "python"
    wanted = (HERE / "requirements.txt").read_text()
    stamp = folder / "installed-from"
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    print(f"installing PyTorch into {folder} (4.7 GB, once)", file=sys.stderr)
    if subprocess.run([sys.executable, "-m", "venv", str(folder)]).returncode:
        fail("python3 cannot make a virtual environment (on Debian: apt install python3-venv)")
    command = [str(python), "-m", "pip", "install", "--quiet", "-r", str(HERE / "requirements.txt")]
    if subprocess.run(command).returncode:
        fail("pip could not install PyTorch (see above)")
    stamp.write_text(wanted)
    return python


class Driver:
    """One side of an interleaved comparison: a process that makes steps when told to."""

    def __init__(self, command, env=None):
        self.command = command
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **(env or {})})
        self.ready = self.read()

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            fail(f"ended with {self.process.wait()}: {' '.join(map(str, self.command))}")
        return json.loads(line)

    def images_per_s(self, num_steps):
        self.process.stdin.write(f"go {num_steps}\n")
        self.process.stdin.flush()
        block = self.read()
        return block["images"] / block["seconds"]

    def steps_for(self, seconds, batch):
        return max(2, round(self.images_per_s(3) * seconds / batch))

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def spread(ratios):
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f})"


def interleave(ours, theirs, batch, pairs):
    """Images per second of both, measured A B B A A B ...; and the ratio of each pair."""
    steps = {driver: driver.steps_for(SECONDS_PER_BLOCK, batch) for driver in (ours, theirs)}
    rates = {ours: [], theirs: []}
    for pair in range(pairs):
        for driver in (ours, theirs) if pair % 2 == 0 else (theirs, ours):
            rates[driver].append(driver.images_per_s(steps[driver]))
    ratios = [mine / other for mine, other in zip(rates[ours], rates[theirs])]
    return statistics.median(rates[ours]), statistics.median(rates[theirs]), ratios


def trainer_steps(options, model, side, batch, precision="auto"):
    return Driver([options.trainer, "bench", "steps", "--model", model, "--side", str(side), "--batch", str(batch),
                   "--threads", str(options.threads), "--precision", precision])


def reference_steps(options, variant, model, side, batch):
    return Driver([options.python, REFERENCE, "steps", "--variant", variant, "--model", model, "--side", str(side),
                   "--batch", str(batch), "--threads", str(options.threads), "--workers", str(options.threads)])


def case_steps(options):
    rows = []
    for model, side, batch in STEP_CASES:
        ours = trainer_steps(options, model, side, batch)
        row = [f"{model}, {side} px, batch {batch}", ours.ready["precision"]]
        for variant in ("r0", "r1"):
            theirs = reference_steps(options, variant, model, side, batch)
            mine, other, ratios = interleave(ours, theirs, batch, options.pairs)
            chosen = f", {theirs.ready['precision']}" if variant == "r1" else ""
            row += [spread(ratios), f"{mine:.0f} / {other:.0f}{chosen}"]
            theirs.close()
        ours.close()
        print(" | ".join(row), file=sys.stderr)
        rows.append(row)
    return table(["training step", "precision", "against R0", "images/s, this / R0", "against R1",
                  "images/s, this / R1"], rows)


def case_gate(options):
    """Equal work: the same weights and batches must give the same losses, or no timing of that case counts."""
    rows = []
    for model, side, batch in STEP_CASES:
        for precision, tolerance in GATE_TOLERANCE.items():
            with tempfile.TemporaryDirectory() as folder:
                common = ["--model", model, "--precision", precision, "--classes", "10", "--learning-rate", str(GATE_LEARNING_RATE),
                          "--weights", f"{folder}/weights.safetensors", "--batches", f"{folder}/batches.safetensors",
                          "--threads", str(options.threads)]
                make = ["--steps", "30" if side < 224 else "10", "--side", str(side), "--batch", str(min(batch, 32))]
                ours = run_json([options.trainer, "bench", "gate", *common, *make])["losses"]
                theirs = run_json([options.python, REFERENCE, "gate", *common])["losses"]
            worst = max(abs(a - b) / abs(b) for a, b in zip(ours, theirs))
            verdict = "pass" if worst <= tolerance and len(ours) == len(theirs) else "FAIL: its timing is void"
            rows.append([f"{model}, {side} px", precision, str(len(ours)), f"{worst:.1e}", f"{tolerance:.0e}", verdict])
            print(" | ".join(rows[-1]), file=sys.stderr)
    return table(["equal-work gate", "precision", "steps", "largest relative difference", "allowed", "verdict"], rows)


def case_ablation(options):
    rows = []
    for model, side, batch in STEP_CASES[:3]:
        drivers = [trainer_steps(options, model, side, batch, precision) for precision in ABLATION]
        for before, after in zip(drivers, drivers[1:]):
            mine, other, ratios = interleave(after, before, batch, options.pairs)
            rows.append([f"{model}, {side} px", f"{before.ready['precision']} -> {after.ready['precision']}",
                         spread(ratios), f"{other:.0f} -> {mine:.0f}"])
            print(" | ".join(rows[-1]), file=sys.stderr)
        for driver in drivers:
            driver.close()
    return table(["step", "lever", "gain", "images/s"], rows)


def run_json(command):
    process = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True)
    if process.returncode:
        fail(f"ended with {process.returncode}: {' '.join(map(str, command))}")
    return json.loads(process.stdout.splitlines()[-1])


def seconds_of(action):
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def run_sweep(options, sweep, *arguments):
    """A whole `orchestrator run` in a fresh folder, which is returned."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="orchestrator-bench-"))
    command = [str(options.orchestrator), "run", str(HERE / "sweeps" / sweep), *arguments]
    process = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if process.returncode:
        fail(f"ended with {process.returncode}: {' '.join(command)}\n{process.stderr}")
    return folder


def compare_wall(options, ours, theirs, pairs):
    mine, other = [], []
    for pair in range(pairs):
        for action, seconds in ((ours, mine), (theirs, other)) if pair % 2 == 0 else ((theirs, other), (ours, mine)):
            seconds.append(seconds_of(action))
    return mine, other, [b / a for a, b in zip(mine, other)]


def case_fashion(options):
    """One training of 1,000 images per class, start-up and evaluation included."""
    if not options.data:
        return "Not measured: `--data` did not name a folder with Fashion-MNIST's four IDX files.\n"
    rows = []
    for variant in ("r0", "r1"):
        theirs = [options.python, REFERENCE, "e2e", "--variant", variant, "--data", options.data, "--precision",
                  "f32-nchw", "--threads", str(options.threads), "--workers", str(options.threads)]
        mine, other, ratios = compare_wall(
            options, lambda: shutil.rmtree(run_sweep(options, "fashion.yaml", "--data-dir", options.data, "--slots", "1")),
            lambda: run_json(theirs), options.pairs)
        rows.append(["resnet-20, 10 epochs of 10,000 images", variant.upper(), spread(ratios),
                     f"{statistics.median(mine):.1f} / {statistics.median(other):.1f}"])
        print(" | ".join(rows[-1]), file=sys.stderr)
    return table(["Fashion-MNIST, end to end", "against", "times as fast", "seconds, this / reference"], rows)


def case_sweep(options):
    """24 small trials; the other side is one Python process per trial, two at a time."""
    def theirs():
        waiting, running = list(range(24)), []
        while waiting or running:
            while waiting and len(running) < options.threads:
                seed = waiting.pop()
                running.append(subprocess.Popen(
                    [str(options.python), str(REFERENCE), "digits", "--seed", str(seed), "--threads", "1",
                     "--data", str(ROOT / "src" / "data" / "digits")],
                    stdout=subprocess.DEVNULL))
            running[0].wait()
            if any(process.poll() for process in running):
                fail("a reference trial failed (see above)")
            running = [process for process in running if process.poll() is None]

    mine, other, ratios = compare_wall(
        options, lambda: shutil.rmtree(run_sweep(options, "small.yaml")), theirs, options.pairs)
    row = ["resnet-8 on digits, 24 trials", spread(ratios), f"{statistics.median(mine):.1f} / {statistics.median(other):.1f}"]
    return table(["a sweep of small trials", "times as fast", "seconds, this / Python"], [row])


def case_start(options):
    """From the request to the first step: the first trial of each trainer is cold, those after it warm."""
    folder = run_sweep(options, "small.yaml", "--slots", "1")
    results = json.loads(next(folder.glob("results/*/results.json")).read_text())
    starts = sorted((trial["attempts"][0]["started_at_ms"], trial["timing"]["start_s"]) for trial in results["trials"])
    shutil.rmtree(folder)
    warm = [seconds * 1e3 for _, seconds in starts[1:]]
    rows = [["cold: the first trial of a trainer", f"{starts[0][1] * 1e3:.0f}", "1"],
            ["warm: the trials after it", f"{statistics.median(warm):.0f} ({min(warm):.0f} - {max(warm):.0f})", str(len(warm))]]
    return table(["start to first step", "ms", "n"], rows)


CASES = {"gate": case_gate, "steps": case_steps, "ablation": case_ablation, "fashion": case_fashion,
         "sweep": case_sweep, "start": case_start}


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def machine():
    model = "unknown processor"
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return f"{model}, {os.cpu_count()} CPUs, {platform.system()} {platform.release()}"


def commit():
    process = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=10"], cwd=ROOT, capture_output=True, text=True)
    return process.stdout.strip() or "no git checkout"


def write(path, name, text):
    """Replaces what stands between the markers of this case."""
    document = path.read_text()
    begin, end = f"<!-- bench {name}: written by bench/run.py -->", f"<!-- /bench {name} -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if not pattern.search(document):
        fail(f"{path} has no place for the case `{name}`: add the lines {begin} and {end}")
    path.write_text(pattern.sub(lambda _: f"{begin}\n{text}{end}", document))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}; without any: all")
    parser.add_argument("--binaries", type=pathlib.Path, required=True, help="folder with both binaries")
    parser.add_argument("--pairs", type=int, default=5, help="measurements of each side")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of one training; and trials at a time")
    parser.add_argument("--data", default=next(iter(
        str(path) for path in [pathlib.Path("/usr/share/dataset-fashion-mnist")] if path.is_dir()), None),
        help="folder with Fashion-MNIST's four IDX files")
    parser.add_argument("--python", type=pathlib.Path, help="an interpreter with requirements.txt installed")
    parser.add_argument("--write", type=pathlib.Path, help="document whose marked sections are replaced")
    options = parser.parse_args()
    unknown = [case for case in options.cases if case not in CASES]
    if unknown:
        parser.error(f"no case `{unknown[0]}`; there are {', '.join(CASES)}")
    options.trainer = options.binaries.resolve() / "orchestrator-trainer"
    options.orchestrator = options.binaries.resolve() / "orchestrator"
    options.python = options.python or environment(ROOT / ".bench" / "python")
    for name in options.cases or CASES:
        print(f"== {name}", file=sys.stderr)
        command = f"make bench ARGS=\"{name} --pairs {options.pairs}\""
        when = datetime.date.today().isoformat()
        text = CASES[name](options) + f"\n{machine()}; commit {commit()}; {when}; `{command}`\n"
        print(text)
        if options.write:
            write(options.write, name, text)


if __name__ == "__main__":
    main()
