"""Times the trainer against PyTorch on the same libtorch, interleaved in one run. See README.md beside this file.

Prints ratios only (ours over theirs, above 1: ours is faster): the median of pairs, with minimum and maximum. With
`--write` it also replaces its tables in docs/performance.md.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
BINARIES = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
TRAINER = str(BINARIES / "orchestrator-trainer")
ORCHESTRATOR = str(BINARIES / "orchestrator")
REFERENCE = str(HERE / "reference" / "train.py")
FASHION = ["/usr/share/datasets/fashion-mnist", str(ROOT / "data" / "fashion-mnist")]

# (model, side, batch, steps per block, reach against R1)
STEP_CASES = [
    ("resnet-20", 32, 128, 8, 1.0),
    ("resnet-18", 64, 32, 8, 1.1),
    ("resnet-18", 224, 8, 6, 1.1),
    ("resnet-50", 224, 8, 4, 1.1),
]
# f32 within 1e-5 and bf16 within 1e-2 of the reference's loss, relative, over 30 steps
GATE_STEPS = 30
GATE_TOLERANCE = {"f32": 1e-5, "bf16": 1e-2}


def median_min_max(ratios):
    return statistics.median(ratios), min(ratios), max(ratios)


def show(ratios):
    median, low, high = median_min_max(ratios)
    return f"{median:.2f} ({low:.2f} to {high:.2f}, {len(ratios)} pairs)"


class Steps:
    """One side of an interleaved comparison: a process that makes n steps when told to."""

    def __init__(self, command):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.precision = self.answer()["precision"]

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.process.args} ended with {self.process.wait()}")
        return json.loads(line)

    def rate(self, num_steps):
        self.process.stdin.write(f"go {num_steps}\n")
        self.process.stdin.flush()
        answer = self.answer()
        return answer["images"] / answer["seconds"]

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def interleave(ours, theirs, num_pairs):
    """Ratios of pairs in the order A B B A A B ..., so that a drifting machine hurts both sides alike."""
    ratios = []
    for pair in range(num_pairs):
        if pair % 2 == 0:
            first = ours()
            second = theirs()
            ratios.append(first / second)
        else:
            second = theirs()
            first = ours()
            ratios.append(first / second)
    return ratios


def shape_arguments(case, threads):
    model, side, batch, _, _ = case
    return ["--model", model, "--side", str(side), "--batch", str(batch), "--threads", str(threads)]


def our_steps(case, threads, extra=()):
    return Steps([TRAINER, "bench", "steps", *shape_arguments(case, threads), *extra])


def reference_steps(python, case, threads, variant):
    return Steps([python, REFERENCE, "steps", "--variant", variant, *shape_arguments(case, threads)])


def compare_steps(python, case, options):
    """Rows of one case: against R1, and against R0."""
    rows = []
    for variant in ("r1", "r0"):
        ours = our_steps(case, options.threads)
        theirs = reference_steps(python, case, options.threads, variant)
        ours.rate(case[3]), theirs.rate(case[3])
        ratios = interleave(lambda: ours.rate(case[3]), lambda: theirs.rate(case[3]), options.pairs)
        rows.append((variant, ours.precision, theirs.precision, ratios))
        ours.close(), theirs.close()
    return rows


GATE_FILES = """
import sys, torch
sys.path.insert(0, sys.argv[1])
import models
from safetensors.torch import save_file
model, side, batch, steps, folder = sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]), sys.argv[6]
torch.manual_seed(1)
state = {k: v.contiguous() for k, v in models.build(model, 100).state_dict().items() if "num_batches" not in k}
save_file(state, folder + "/weights.safetensors")
save_file({"images": torch.randn(steps, batch, 3, side, side), "labels": torch.randint(0, 100, (steps, batch))},
          folder + "/batches.safetensors")
"""


def gate(python, case, precision, threads):
    """Largest relative difference of the loss over the steps; the timing is void where it is too large."""
    model, side, batch, _, _ = case
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([python, "-c", GATE_FILES, str(HERE / "reference"), model, str(side), str(min(batch, 32)),
                        str(GATE_STEPS), folder], check=True)
        files = ["--weights", f"{folder}/weights.safetensors", "--batches", f"{folder}/batches.safetensors",
                 "--model", model, "--threads", str(threads), "--learning-rate", "0.01"]
        layout = "f32-nchw" if precision == "f32" else "bf16-nhwc"
        reference = subprocess.run([python, REFERENCE, "gate", *files, "--precision", layout],
                                   check=True, capture_output=True, text=True)
        ours = subprocess.run([TRAINER, "bench", "gate", *files, "--precision", precision],
                              check=True, capture_output=True, text=True)
    pairs = zip(json.loads(ours.stdout)["losses"], json.loads(reference.stdout)["losses"], strict=True)
    return max(abs(a - b) / abs(b) for a, b in pairs)


def seconds_of(command, **options):
    start = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return seconds


def run_sweep(sweep, *extra):
    """`orchestrator run` from nothing: empty state, results and cache folders."""
    with tempfile.TemporaryDirectory() as folder:
        command = [ORCHESTRATOR, "run", str(HERE / "sweeps" / sweep), "--state-dir", f"{folder}/state",
                   "--results", f"{folder}/results", *extra]
        return seconds_of(command, cwd=folder)


def end_to_end(python, fashion, options):
    """One Fashion-MNIST training, process start to last evaluation, against R0 and R1."""
    rows = []
    for variant in ("r0", "r1"):
        theirs = [python, REFERENCE, "e2e", "--variant", variant, "--data", fashion, "--precision", "f32-nchw",
                  "--model", "resnet-20", "--per-class", "1000", "--epochs", "10", "--batch", "100"]
        ratios = interleave(lambda: 1 / run_sweep("end-to-end.yaml"), lambda: 1 / seconds_of(theirs),
                            options.whole_pairs)
        rows.append((variant, ratios))
    return rows


def small_trials(python, fashion, options):
    """24 small trainings: one sweep against one Python process per trial, two at a time, one thread each."""

    def one_process_each():
        start = time.perf_counter()
        waiting, running = list(range(24)), []
        while waiting or running:
            while waiting and len(running) < os.cpu_count():
                running.append(subprocess.Popen(
                    [python, REFERENCE, "e2e", "--variant", "r1", "--data", fashion, "--precision", "f32-nchw",
                     "--model", "resnet-8", "--per-class", "20", "--epochs", "5", "--batch", "50", "--threads", "1",
                     "--seed", str(waiting.pop())], stdout=subprocess.DEVNULL))
            running = [process for process in running if process.poll() is None]
            time.sleep(0.01)
        return 1 / (time.perf_counter() - start)

    return interleave(lambda: 1 / run_sweep("small-trials.yaml"), one_process_each, options.whole_pairs)


def machine():
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "")
    flags = next((line for line in open("/proc/cpuinfo") if line.startswith("flags")), "")
    units = [flag for flag in ("avx512f", "avx512_bf16", "amx_bf16") if f" {flag}" in flags]
    return f"{model}, {os.cpu_count()} CPUs, {' '.join(units) or 'no avx512'}, Linux {platform.release()}"


def commit():
    told = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return told.stdout.strip() or "unknown"


def write_tables(text):
    """Puts the tables between their two marks in docs/performance.md."""
    page = ROOT / "docs" / "performance.md"
    start, end = "<!-- bench: start -->", "<!-- bench: end -->"
    old = page.read_text()
    head, rest = old.split(start)
    tail = rest.split(end)[1]
    page.write_text(f"{head}{start}\n{text}\n{end}{tail}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=str(ROOT / ".bench" / "venv" / "bin" / "python"))
    parser.add_argument("--pairs", type=int, default=7, help="pairs of blocks per step case")
    parser.add_argument("--whole-pairs", type=int, default=3, help="pairs of whole-process cases")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--only", choices=["steps", "e2e", "sweep"], help="one group of cases")
    parser.add_argument("--write", action="store_true", help="replace the tables in docs/performance.md")
    options = parser.parse_args()
    lines = [f"Machine: {machine()}. Commit: {commit()}. Date: {datetime.date.today()}. "
             f"Command: `make bench`{' (' + ' '.join(sys.argv[1:]) + ')' if sys.argv[1:] else ''}.", ""]

    def say(line):
        print(line, flush=True)
        lines.append(line)

    if options.only in (None, "steps"):
        say("| steps | against | ours | theirs | gate: loss differs by | images per second, ours / theirs | reach |")
        say("|---|---|---|---|---|---|---|")
        for case in STEP_CASES:
            for variant, ours, theirs, ratios in compare_steps(options.python, case, options):
                precision = ours.split("-")[0]
                difference = gate(options.python, case, precision, options.threads)
                void = "" if difference <= GATE_TOLERANCE[precision] else " VOID"
                reach = f"{case[4]}" if variant == "r1" else "-"
                say(f"| {case[0]}, {case[1]} px, batch {case[2]} | {variant.upper()} | {ours} | {theirs} | "
                    f"{difference:.1e}{void} | {show(ratios)} | {reach} |")
        say("")
    fashion = next((folder for folder in FASHION if os.path.isdir(folder)), None)
    if fashion is None and options.only != "steps":
        sys.exit("Fashion-MNIST is missing: apt install dataset-fashion-mnist, or orchestrator data fetch fashion-mnist")
    if options.only in (None, "e2e"):
        say("| whole process | against | speed, ours / theirs | reach |")
        say("|---|---|---|---|")
        for variant, ratios in end_to_end(options.python, fashion, options):
            say(f"| Fashion-MNIST, resnet-20, 1,000 per class, 10 epochs | {variant.upper()} | {show(ratios)} | "
                f"{'2.0' if variant == 'r0' else '-'} |")
        say("")
    if options.only in (None, "sweep"):
        say("| sweep | against | speed, ours / theirs | reach |")
        say("|---|---|---|---|")
        ratios = small_trials(options.python, fashion, options)
        say(f"| 24 trials, resnet-8, Fashion-MNIST, 20 per class, 5 epochs | one R1 process per trial, "
            f"{os.cpu_count()} at a time | {show(ratios)} | 3.0 |")
    if options.write:
        write_tables("\n".join(lines))


if __name__ == "__main__":
    if not shutil.which(TRAINER) or not shutil.which(ORCHESTRATOR):
        sys.exit(f"{TRAINER} and {ORCHESTRATOR} are needed: run `make build` first")
    main()
