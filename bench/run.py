"""Times this program against PyTorch on the same libtorch, interleaved in one run; see README.md beside this file.

    run.py --binaries target/release [CASE ...] [--pairs N] [--write bench/results/epyc.md]

Ratios are this program's images per second over the reference's (or the reference's seconds over this program's):
above 1 this program is faster. Every line is the median of ratios of measurements side by side, with the smallest and
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
# Largest relative difference of one step from equal weights: of the loss, of the gradients, of the weights that it continued with.
GATE_TOLERANCE = {"f32-nhwc": 1e-5, "bf16-nhwc": 1e-2}
GATE_STEPS = 30
# Before each timing of steps.
SHORT_GATE_STEPS = 5
# An end-to-end comparison with a larger difference of accuracies is void.
MOST_ACCURACY_APART = 0.03
# Weights after a step and a free-running curve must stay as near to PyTorch's as PyTorch's in another layout do, within this
# factor: the last bits, which differ with the order of additions, grow tenfold every few layers and every few steps.
GATE_SPREADS = 3
# In bf16 a gradient must be as near to the gradient in f32 as PyTorch's own in bf16 is, within this factor.
GATE_ERRORS = 1.25
GATE_LEARNING_RATE = 0.01
# Formats, each against the one before; and what the trainer can do without, each against the whole.
FORMATS = ["f32-nhwc", "bf16-nhwc"]
LEVERS = ["products", "fused-norm", "kept-memory", "prefetch"]
# What `precision: auto` is made from: model, image side, batch size.
PRECISION_CASES = [("resnet-8", 8, 50), ("resnet-20", 28, 128), ("resnet-20", 32, 128), ("resnet-18", 32, 64),
                   ("resnet-18", 64, 32), ("resnet-18", 224, 8), ("resnet-50", 64, 16), ("resnet-50", 224, 8)]
# Settings of glibc's allocator, from outside, that the trainer makes from inside.
KEPT_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1), "MALLOC_TOP_PAD_": str(64 << 20)}
# By these oneDNN, libtorch and MKL take a processor for an older one, on both sides alike.
INSTRUCTION_SETS = ["ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS"]
NUM_IDLE_TRIALS = 5000
SECONDS_PER_BLOCK = 2.0


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
    """One side of an interleaved comparison: a process that makes steps on request."""

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

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.read()

    def images_per_s(self, num_steps):
        block = self.ask(f"go {num_steps}")
        return block["images"] / block["seconds"]

    def steps_for(self, seconds, batch):
        return max(2, round(self.images_per_s(3) * seconds / batch))

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def spread(ratios):
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f})"


def interleave(start_ours, start_theirs, batch, pairs):
    """Images per second of both and the ratio of each pair. A pair is two processes of its own, because two of the same kind
    differ by some per cent for as long as they live; each is measured twice, A B B A in one pair, B A A B in the next."""
    ours_of, theirs_of, chosen = [], [], set()
    for pair in range(pairs):
        ours, theirs = start_ours(), start_theirs()
        chosen.add((ours.ready["precision"], theirs.ready["precision"]))
        steps = {driver: driver.steps_for(SECONDS_PER_BLOCK, batch) for driver in (ours, theirs)}
        seconds = {ours: 0.0, theirs: 0.0}
        first, second = (ours, theirs) if pair % 2 == 0 else (theirs, ours)
        for driver in (first, second, second, first):
            seconds[driver] += 1 / driver.images_per_s(steps[driver])
        ours_of.append(2 / seconds[ours])
        theirs_of.append(2 / seconds[theirs])
        ours.close()
        theirs.close()
    if len(chosen) > 1:
        fail(f"precisions differ from pair to pair: {sorted(chosen)}")
    ratios = [mine / other for mine, other in zip(ours_of, theirs_of)]
    return statistics.median(ours_of), statistics.median(theirs_of), ratios, *chosen


def trainer_steps(options, model, side, batch, precision="auto", *without):
    command = [options.trainer, "bench", "steps", "--model", model, "--side", str(side), "--batch", str(batch),
               "--threads", str(options.threads), "--precision", precision]
    return Driver(command + [word for lever in without for word in ("--without", lever)])


def reference_steps(options, variant, model, side, batch, precision="auto", threads=None, env=None):
    return Driver([options.python, REFERENCE, "steps", "--variant", variant, "--model", model, "--side", str(side),
                   "--batch", str(batch), "--precision", precision, "--threads", str(threads or options.threads),
                   "--workers", str(options.threads)], env)


def fastest_precision(options, model, side, batch, threads):
    """What R1 finds fastest on this machine, in a process of its own that is not timed."""
    driver = reference_steps(options, "r1", model, side, batch, threads=threads)
    driver.close()
    return driver.ready["precision"]


def case_steps(options):
    """R1 twice: as it is, and started with the allocator settings that the trainer gives itself. The gate comes first, short."""
    rows = []
    for model, side, batch in STEP_CASES:
        ready = trainer_steps(options, model, side, batch)
        own = precision_in_short(ready.ready["precision"])
        ready.close()
        if not passes(gate(options, model, side, batch, own, SHORT_GATE_STEPS), own):
            rows.append([f"{model}, {side} px, batch {batch}", own] + ["void: the gate failed", ""] * 3)
            continue
        fastest = fastest_precision(options, model, side, batch, options.threads)
        row = [f"{model}, {side} px, batch {batch}"]
        for variant, precision, env in (("r0", "auto", None), ("r1", fastest, None), ("r1", fastest, KEPT_MEMORY)):
            mine, other, ratios, (own, _) = interleave(
                lambda: trainer_steps(options, model, side, batch),
                lambda: reference_steps(options, variant, model, side, batch, precision, env=env), batch, options.pairs)
            row += [spread(ratios), f"{mine:.0f} / {other:.0f}{f', {fastest}' if variant == 'r1' else ''}"]
        row.insert(1, own)
        print(" | ".join(row), file=sys.stderr)
        rows.append(row)
    return table(["training step", "precision", "against R0", "images/s, this / R0", "against R1",
                  "images/s, this / R1", "against R1 with kept memory", "images/s"], rows)


def case_compiled(options):
    """R1 under torch.compile, whose compilation, minutes in a first process, is not in these figures."""
    rows = []
    for model, side, batch in STEP_CASES:
        fastest = fastest_precision(options, model, side, batch, options.threads)
        mine, other, ratios, (own, _) = interleave(
            lambda: trainer_steps(options, model, side, batch),
            lambda: reference_steps(options, "r2", model, side, batch, fastest), batch, options.pairs)
        rows.append([f"{model}, {side} px, batch {batch}", own, spread(ratios), f"{mine:.0f} / {other:.0f}, {fastest}"])
        print(" | ".join(rows[-1]), file=sys.stderr)
    return table(["training step", "precision", "against R1 under torch.compile", "images/s, this / R2"], rows)


def precision_in_short(text):
    """`bf16, channels last` as the references call it."""
    dtype, _, layout = text.partition(", ")
    return f"{dtype}-{'nhwc' if layout else 'nchw'}"


def gate(options, model, side, batch, precision, num_steps):
    """The largest differences over the steps of one case, and between free-running curves."""
    threads = ["--threads", options.threads]
    return gate_between([options.trainer, "bench", "gate", *threads], [options.python, REFERENCE], threads, model, side,
                        batch, precision, num_steps)


def gate_between(ours, reference, theirs, model, side, batch, precision, num_steps):
    """As `gate`, between two command lines; `theirs`: what follows the name of the reference's command."""
    with tempfile.TemporaryDirectory() as folder:
        common = ["--model", model, "--precision", precision, "--classes", 10, "--learning-rate", GATE_LEARNING_RATE]
        files = ["--weights", f"{folder}/weights.safetensors", "--batches", f"{folder}/batches.safetensors", "--state",
                 f"{folder}/state.safetensors"]
        return gate_of([*ours, *common, *files, "--steps", num_steps, "--side", side, "--batch", batch],
                       [*reference, "gate", *theirs, *common, *files], num_steps)


def gate_of(ours, theirs, num_steps):
    ours, theirs = (Driver([str(word) for word in command]) for command in (ours, theirs))
    losses, worst = [], {}
    for _ in range(num_steps):
        losses.append(ours.ask("step")["loss"])
        step = theirs.ask("step")
        step["loss"] = abs(losses[-1] - step["loss"]) / abs(step["loss"])
        # what is not a number must not pass for a small one
        worst = {name: worst[name] if value <= worst.get(name, -1.0) else value for name, value in step.items()}
    ours.close()
    curves = theirs.ask("curve")
    theirs.close()
    apart = lambda found: max(abs(a - b) / abs(b) for a, b in zip(found, curves["curve"], strict=True))
    return {**worst, "curve": apart(losses), "own_curve": apart(curves["own_curve"])}


def passes(found, precision, tolerances=GATE_TOLERANCE):
    """In bf16 PyTorch's own gradients differ by a tenth and more between layouts: there the gradient in f32 is the measure."""
    tolerance = tolerances[precision]
    near = lambda name: found[name] <= max(tolerance, GATE_SPREADS * found[f"own_{name}"])
    bf16 = precision.startswith("bf16")
    # PyTorch's own losses in bf16 were seen 1.1e-2 apart
    loss = max(tolerance, GATE_ERRORS * found["own_loss"]) if bf16 else tolerance
    single = found["loss"] <= loss and near("state")
    if bf16:
        single = single and found["error"] <= max(tolerance, GATE_ERRORS * found["own_error"])
    else:
        # normalisation is another operation here, and rounding grows from layer to layer
        single = single and near("gradient")
    return single and near("curve")


def gate_rows(cases, tolerances, found_in):
    """`found_in(model, side, batch, precision)`: what `gate` gives."""
    rows = []
    for model, side, batch in cases:
        for precision, tolerance in tolerances.items():
            found = found_in(model, side, batch, precision)
            pair = lambda name: f"{found[name]:.1e} / {found[f'own_{name}']:.1e}"
            verdict = "pass" if passes(found, precision, tolerances) else "FAIL: its timing is void"
            rows.append([f"{model}, {side} px, batch {batch}", precision, f"{tolerance:.0e}", pair("loss"), pair("gradient"),
                         pair("error") if "error" in found else "-", pair("state"), pair("curve"), verdict])
            print(" | ".join(rows[-1]), file=sys.stderr)
    return table(["equal-work gate: largest relative difference", "precision", "allowed", "loss of a step / PyTorch's own",
                  "gradient / own", "from the gradient in f32 / PyTorch's", "weights and statistics after a step / own",
                  "free-running curve / own", "verdict"], rows)


def case_gate(options):
    """Equal work: the same weights and batches must give the same steps, or no timing of that case counts."""
    return gate_rows(STEP_CASES, GATE_TOLERANCE, lambda *case: gate(options, *case, GATE_STEPS))


def case_ablation(options):
    rows = []
    for model, side, batch in STEP_CASES:
        start = lambda *arguments: lambda: trainer_steps(options, model, side, batch, *arguments)
        steps = [(None, start(after), start(before)) for before, after in zip(FORMATS, FORMATS[1:])]
        steps += [(lever, start(), start("auto", lever)) for lever in LEVERS]
        for lever, after, before in steps:
            mine, other, ratios, (with_it, without) = interleave(after, before, batch, options.pairs)
            name = f"without -> with {lever}" if lever else f"{without} -> {with_it}"
            rows.append([f"{model}, {side} px", name, spread(ratios), f"{other:.0f} -> {mine:.0f}"])
            print(" | ".join(rows[-1]), file=sys.stderr)
    return table(["step", "lever", "gain", "images/s"], rows)


def rates_in_turn(drivers, batch, turns):
    """Images per second of each in every turn; they are closed."""
    steps = [driver.steps_for(SECONDS_PER_BLOCK / 2, batch) for driver in drivers]
    rates = [[] for _ in drivers]
    for turn in range(turns):
        order = range(len(drivers)) if turn % 2 == 0 else reversed(range(len(drivers)))
        for number in order:
            rates[number].append(drivers[number].images_per_s(steps[number]))
    for driver in drivers:
        driver.close()
    return rates


def times(rates, others):
    return spread([mine / other for mine, other in zip(rates, others)])


def case_precision(options):
    """What the table in src/trainer/src/step/precision.rs is made from."""
    rows = []
    for model, side, batch in PRECISION_CASES:
        drivers = [trainer_steps(options, model, side, batch, precision) for precision in FORMATS]
        rates = rates_in_turn(drivers, batch, options.pairs)
        medians = [statistics.median(rate) for rate in rates]
        ratios = [times(rate, rates[0]) for rate in rates[1:]]
        auto = trainer_steps(options, model, side, batch)
        auto.close()
        rows.append([f"{model}, {side} px, batch {batch}", f"{medians[0]:.0f}", *ratios,
                     drivers[medians.index(max(medians))].ready["precision"], auto.ready["precision"]])
        print(" | ".join(rows[-1]), file=sys.stderr)
    return table(["network", "f32, images/s", "bf16, times", "fastest", "`precision: auto`"], rows)


def run_json(command):
    process = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True)
    if process.returncode:
        fail(f"ended with {process.returncode}: {' '.join(map(str, command))}")
    return json.loads(process.stdout.splitlines()[-1])


def seconds_of(action):
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def run_sweep(options, sweep, *arguments, env=None):
    """A whole `orchestrator run` in a fresh folder, which is returned."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="orchestrator-bench-"))
    command = [str(options.orchestrator), "run", str(HERE / "sweeps" / sweep), *arguments]
    process = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, **(env or {})})
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
    precision = fastest_precision(options, "resnet-20", 28, 128, options.threads)
    with tempfile.TemporaryDirectory() as folder:
        (pathlib.Path(folder) / "fashion-mnist").symlink_to(options.data)
        sides = {"this": lambda: accuracy_of(
            run_sweep(options, "fashion.yaml", "--data-dir", folder, "--slots", "1"))}
        for variant in ("r0", "r1"):
            command = [options.python, REFERENCE, "e2e", "--variant", variant, "--data", options.data, "--precision",
                       precision, "--threads", str(options.threads), "--workers", str(options.threads)]
            sides[variant] = lambda command=command: run_json(command)["accuracy"]
        seconds, accuracies = {name: [] for name in sides}, {name: [] for name in sides}
        for turn in range(options.pairs):
            for name in list(sides) if turn % 2 == 0 else list(reversed(sides)):
                start = time.perf_counter()
                accuracies[name].append(sides[name]())
                seconds[name].append(time.perf_counter() - start)
                print(f"{name}: {seconds[name][-1]:.1f} s, accuracy {accuracies[name][-1]:.4f}", file=sys.stderr)
    reached = {name: statistics.median(values) for name, values in accuracies.items()}
    for variant, name in (("r0", "R0"), ("r1", f"R1, {precision}")):
        ratios = [other / mine for mine, other in zip(seconds["this"], seconds[variant])]
        is_equal = abs(reached["this"] - reached[variant]) <= MOST_ACCURACY_APART
        rows.append(["resnet-20, 10 epochs of 10,000 images", name, spread(ratios) if is_equal else "void",
                     f"{statistics.median(seconds['this']):.1f} / {statistics.median(seconds[variant]):.1f}",
                     f"{100 * reached['this']:.1f} / {100 * reached[variant]:.1f}"])
    return table(["Fashion-MNIST, end to end", "against", "times as fast", "seconds, this / reference",
                  "accuracy, %, this / reference"], rows)


def accuracy_of(folder):
    """Mean accuracy of a finished sweep, whose folder is removed."""
    trials = json.loads(next(folder.glob("results/*/results.json")).read_text())["trials"]
    shutil.rmtree(folder)
    return statistics.mean(trial["result"]["last_accuracy"] for trial in trials)


def case_sweep(options):
    """24 small trials; the other side is one Python process per trial, two at a time."""
    precision = fastest_precision(options, "resnet-8", 8, 50, 1)
    reached = {"this": [], "reference": []}

    def ours():
        reached["this"].append(accuracy_of(run_sweep(options, "small.yaml")))

    def theirs():
        waiting, running, ended = list(range(24)), [], []
        while waiting or running:
            while waiting and len(running) < options.threads:
                seed = waiting.pop()
                running.append(subprocess.Popen(
                    digits_command(options, seed, precision), stdout=subprocess.PIPE, text=True))
            time.sleep(0.005)
            if any(process.poll() for process in running):
                fail("a reference trial failed (see above)")
            ended += [process for process in running if process.poll() is not None]
            running = [process for process in running if process not in ended]
        accuracies = [json.loads(process.stdout.read().splitlines()[-1])["accuracy"] for process in ended]
        reached["reference"].append(statistics.mean(accuracies))

    mine, other, ratios = compare_wall(options, ours, theirs, options.pairs)
    mean = {name: statistics.mean(values) for name, values in reached.items()}
    is_equal = abs(mean["this"] - mean["reference"]) <= MOST_ACCURACY_APART
    row = ["resnet-8 on digits, 24 trials of 20 epochs", precision, spread(ratios) if is_equal else "void",
           f"{statistics.median(mine):.1f} / {statistics.median(other):.1f}",
           f"{100 * mean['this']:.1f} / {100 * mean['reference']:.1f}"]
    return table(["a sweep of small trials", "the reference's precision", "times as fast", "seconds, this / Python",
                  "mean accuracy, %, this / Python"], [row])


def digits_command(options, seed, precision):
    return [str(options.python), str(REFERENCE), "digits", "--seed", str(seed), "--threads", "1", "--precision", precision,
            "--data", str(ROOT / "src" / "data" / "digits")]


def case_start(options):
    """How soon the first step begins, here and in one Python process per trial."""
    span, rows = spread_of_ms, start_rows(options, "--slots", "1")
    precision = fastest_precision(options, "resnet-8", 8, 50, options.threads)
    starts = []
    for seed in range(options.pairs):
        begin = time.perf_counter()
        with subprocess.Popen(digits_command(options, seed, precision), stdout=subprocess.PIPE, text=True) as process:
            process.stdout.readline()
            starts.append(1e3 * (time.perf_counter() - begin))
            process.kill()
    rows.append(["PyTorch script: from the start of its process to its first step", span(starts), str(len(starts))])
    return table(START_HEAD, rows)


START_HEAD = ["resnet-8 on digits, one slot", "ms", "n"]


def spread_of_ms(values):
    return f"{statistics.median(values):.0f} ({min(values):.0f} - {max(values):.0f})"


def start_rows(options, *arguments):
    """A sweep of small trials, one after the other. A first step begins `start_s` after its trainer had the trial; what lies
    between the coordinator's dispatch and that is the same for all trials of a warm trainer, and cancels in a difference."""
    folder = run_sweep(options, "small.yaml", *arguments)
    results = json.loads(next(folder.glob("results/*/results.json")).read_text())
    shutil.rmtree(folder)
    trials = sorted(((trial["attempts"][0]["started_at_ms"], trial["timing"]) for trial in results["trials"]),
                    key=lambda trial: trial[0])
    worked = lambda timing: 1e3 * (timing["train_s"] + timing["evaluate_s"] + timing["checkpoint_s"])
    ready = lambda timing: 1e3 * timing["start_s"]
    warm = trials[1:]
    gaps = [after + ready(next_timing) - (before + ready(timing) + worked(timing))
            for (before, timing), (after, next_timing) in zip(warm, warm[1:])]
    cold = trials[1][0] - trials[0][0] - worked(trials[0][1])
    starts = [ready(timing) for _, timing in warm]
    return [
        ["from dispatch to the first step, cold: the trainer's start, libtorch and data set, and the end of that trial", f"{cold:.0f}", "1"],
        ["from the trainer's request to the first step, warm", spread_of_ms(starts), str(len(starts))],
        ["from the last step of a trial (its evaluation and checkpoint apart) to the first one of the next", spread_of_ms(gaps),
         str(len(gaps))]]


def case_overhead(options):
    """Trials that train nothing, journal on disk, submission and report included."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = pathlib.Path(folder) / "trainer"
        trainer.write_text(f'#!/bin/sh\nexec "{options.trainer}" "$@" --rehearse\n')
        trainer.chmod(0o755)
        sweep = pathlib.Path(folder) / "idle.yaml"
        small = (HERE / "sweeps" / "small.yaml").read_text()
        sweep.write_text(small.replace("seeds: 24", f"seeds: {NUM_IDLE_TRIALS}").replace("epochs: 20", "epochs: 1"))
        each = []
        for _ in range(options.pairs):
            run = lambda: shutil.rmtree(run_sweep(options, sweep, "--trainer", str(trainer)))
            each.append(seconds_of(run) * 1e3 / NUM_IDLE_TRIALS)
            print(f"{each[-1]:.2f} ms", file=sys.stderr)
    row = [f"{NUM_IDLE_TRIALS} trials on {options.threads} slots", spread(each), str(len(each))]
    return table(["a trial that trains nothing", "ms each", "n"], [row])


CASES = {"gate": case_gate, "steps": case_steps, "compiled": case_compiled, "ablation": case_ablation, "precision": case_precision,
         "fashion": case_fashion, "sweep": case_sweep, "start": case_start, "overhead": case_overhead}


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
    """`-dirty` where something else than documents, which this program writes, differs from it."""
    git = lambda *words: subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
    process = git("rev-parse", "--short=10", "HEAD")
    changed = git("diff", "--quiet", "HEAD", "--", ".", ":!docs", ":!bench/results").returncode
    return (process.stdout.strip() + ("-dirty" if changed else "")) or "no git checkout"


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
        str(path) for path in [pathlib.Path("/usr/share/datasets/fashion-mnist")] if path.is_dir()), None),
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
        built_from = commit()
        threads = "" if options.threads == os.cpu_count() else f" --threads {options.threads}"
        limits = "".join(f"{name}={os.environ[name]} " for name in INSTRUCTION_SETS if name in os.environ)
        command = f"{limits}make bench ARGS=\"{name} --pairs {options.pairs}{threads}\""
        when = datetime.date.today().isoformat()
        text = CASES[name](options) + f"\n{machine()}; commit {built_from}; {when}; `{command}`\n"
        print(text)
        if options.write:
            write(options.write, name, text)


if __name__ == "__main__":
    main()
