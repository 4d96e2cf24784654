"""Times this program against PyTorch on one GPU; README.md beside this file has the order in which to run it.

    gpu.py --trainer orchestrator-trainer [CASE ...] [--pairs N] [--write bench/results/gpu.md]

As run.py: both sides on one libtorch in one run, A B B A A B ...; a line is the median of ratios of neighbouring
measurements, with the smallest and the largest. A pair during which the GPU's clock changed by more than 3 % is void.
"""

import argparse
import contextlib
import datetime
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import run

REFERENCE = run.HERE / "reference" / "gpu.py"

# model, image side, batch size
STEP_CASES = [("resnet-18", 32, 128), ("resnet-18", 32, 512), ("resnet-50", 224, 32), ("resnet-50", 448, 16),
              ("resnet-50", 448, 64)]
# As in run.py, with TF32, which has 11 bits where bf16 has 8.
GATE_TOLERANCE = {"f32-nhwc": 2e-3, "bf16-nhwc": 1e-2}
# Images per second that an H200 allows eager PyTorch (computed, not measured), and the share of it to reach.
FLOORS, FLOOR_AIM = {("resnet-50", 448, 64): 2086}, 0.75
CLOCK_TOLERANCE = 0.03
# What cuDNN's search costs and gains, by how many kernels it times.
CANDIDATES = [4, 10]
PACKED = [1, 2, 3, 4]
# In the environment of a trainer: a group of one speaks NCCL all the same.
NCCL_ALONE = {"ORCHESTRATOR_NCCL_ALONE": "1"}
PROFILED = [("resnet-18", 32, 128), ("resnet-50", 448, 16)]
STEPS_PROFILED = 10
# What kernels do, by parts of their names in lower case; the first that fits. Transposes are between memory layouts.
KERNELS = [("transpose", ("nchwtonhwc", "nhwctonchw")),
           ("batch normalisation", ("norm_", "batch_norm", "batchnorm", "bn_fw", "bn_bw")),
           ("convolution and product", ("conv", "gemm", "xmma", "cutlass", "wgrad", "dgrad", "fprop")),
           ("copy", ("copy", "memcpy", "memset")),
           ("elementwise and reduction", ("elementwise", "reduce", "triton", "pool"))]
# Beginnings of what drills print.
PRINTED = ("communicator", "and again", "rank ", "the other", "on [", "out of memory", "a batch of", "the kernels")


def clock():
    """The GPU's clock in MHz."""
    query = ["nvidia-smi", "--query-gpu=clocks.sm", "--format=csv,noheader,nounits"]
    answer = subprocess.run(query, capture_output=True, text=True)
    return float(answer.stdout.splitlines()[0]) if answer.returncode == 0 else None


def interleave(ours, theirs, batch, pairs):
    """Images per second of both, measured A B B A A B ..., and the ratio of each pair, without the pairs between whose halves
    the clock changed; and how many those were."""
    steps = {driver: max(100, driver.steps_for(run.SECONDS_PER_BLOCK, batch)) for driver in (ours, theirs)}
    rates, ratios, void = {ours: [], theirs: []}, [], 0
    for pair in range(pairs):
        measured, clocks = {}, []
        for driver in (ours, theirs) if pair % 2 == 0 else (theirs, ours):
            measured[driver] = driver.images_per_s(steps[driver])
            clocks.append(clock())
        if None not in clocks and abs(clocks[0] / clocks[1] - 1) > CLOCK_TOLERANCE:
            void += 1
            continue
        for driver, rate in measured.items():
            rates[driver].append(rate)
        ratios.append(measured[ours] / measured[theirs])
    if not ratios:
        run.fail("the GPU's clock changed in every pair: nothing was measured")
    return statistics.median(rates[ours]), statistics.median(rates[theirs]), ratios, void


def trainer_steps(options, model, side, batch, *more, env=None):
    command = [options.trainer, "bench", "steps", "--device", options.device, "--model", model, "--side", side,
               "--batch", batch, *more]
    return run.Driver([str(part) for part in command], env)


def reference_steps(options, variant, model, side, batch):
    command = [options.python, REFERENCE, "steps", "--variant", variant, "--model", model, "--side", side, "--batch",
               batch, "--workers", os.cpu_count()]
    return run.Driver([str(part) for part in command])


def case_checks(options):
    """What must be known before anything is timed: that it runs at all, and what the libraries do."""
    rows = []

    def row(what, found):
        rows.append([what, found])
        print(" | ".join(rows[-1]), file=sys.stderr)

    start = time.perf_counter()
    devices = subprocess.run([str(options.trainer), "devices"], capture_output=True, text=True)
    row("libtorch and CUDA, cold start", f"{time.perf_counter() - start:.1f} s, exit {devices.returncode}")
    start = time.perf_counter()
    subprocess.run([str(options.trainer), "devices"], capture_output=True)
    row("the same, warm", f"{time.perf_counter() - start:.1f} s")
    row("devices", "; ".join(devices.stdout.splitlines()))
    for candidates in CANDIDATES:
        start = time.perf_counter()
        driver = trainer_steps(options, "resnet-50", 224, 32, "--cudnn-candidates", candidates, "--graphs", "never")
        seconds = time.perf_counter() - start
        rate = driver.images_per_s(100)
        driver.close()
        row(f"ResNet-50, 224 px, batch 32, {candidates} cuDNN candidates",
            f"{seconds:.1f} s to the first block, {rate:.0f} images/s")
    for model, side, batch in STEP_CASES:
        driver = trainer_steps(options, model, side, batch)
        driver.images_per_s(20)
        block = driver.ask("go 100")
        driver.close()
        row(f"{model}, {side} px, batch {batch}",
            f"steps {block['execution']}; {10 * block['seconds']:.2f} ms a step, {10 * block['cpu_seconds']:.2f} ms of "
            f"them on the host; peak {block['peak_mib']:.0f} MiB")
    mps = subprocess.run(["sh", "-c", "command -v nvidia-cuda-mps-control"], capture_output=True, text=True)
    row("nvidia-cuda-mps-control", mps.stdout.strip() or "is not there")
    return run.table(["check", "found"], rows)


def case_drills(options):
    """The tests that need a GPU, from the test binary: pixels, recorded steps, NCCL alone and among two processes."""
    if not options.tests:
        return "Not run: `--tests` did not name the trainer's test binary.\n"
    names = ["step::images_tests::on_a_gpu_pixels_are_the_same_bits",
             "step::cuda_graph_steps_tests::on_a_gpu_recorded_steps_are_the_queued_ones",
             "device::cuda::norm_drills::on_a_gpu_the_fused_operation_is_libtorchs_three",
             "device::cuda::norm_drills::on_a_gpu_a_recording_gives_the_same_bits",
             "conversation::gpu_tests::a_trial_gives_the_same_bits_recorded_queued_and_interrupted",
             "conversation::gpu_tests::running_out_of_memory_names_a_batch_that_fits",
             "device::collective::nccl::drills::a_group_of_one_goes_through_the_whole_path",
             "device::collective::nccl::drills::a_group_of_one_keeps_the_contract",
             "device::collective::nccl::drills::two_processes_sum_over_the_wire",
             "device::collective::nccl::drills::a_killed_process_ends_the_other_within_its_deadline"]
    devices = subprocess.run([str(options.trainer), "devices"], capture_output=True, text=True).stdout
    if "\ncuda:1 " in devices:
        names += ["device::collective::nccl::drills::a_group_of_two_gpus_keeps_the_contract",
                  "conversation::gpu_tests::two_gpus_give_the_bits_of_two_replicas_on_one"]
    rows = []
    for name in names:
        command = [str(options.tests), "--ignored", "--exact", "--nocapture", name]
        start = time.perf_counter()
        try:
            process = subprocess.run(command, capture_output=True, text=True, timeout=120)
            passed = "pass" if process.returncode == 0 and "1 passed" in process.stdout else "FAIL"
            output = process.stdout + process.stderr
        except subprocess.TimeoutExpired as expired:
            passed, output = "FAIL: no end after 120 s", str(expired.stdout)
        if passed != "pass":
            print(output, file=sys.stderr)
        printed = "; ".join(line for line in output.splitlines() if line.startswith(PRINTED))
        rows.append([name.rsplit("::", 1)[1].replace("_", " "), passed, f"{time.perf_counter() - start:.1f}", printed])
        print(" | ".join(rows[-1]), file=sys.stderr)
    return run.table(["drill", "verdict", "seconds", "printed"], rows)


def case_gate(options):
    """Equal work, by the rules of run.py: the first steps are queued, the others recorded."""
    ours = [options.trainer, "bench", "gate", "--device", options.device, "--graphs", "always"]
    cases = [(model, side, min(batch, 32)) for model, side, batch in STEP_CASES[:1] + STEP_CASES[2:3]]
    return run.gate_rows(cases, GATE_TOLERANCE, lambda *case: run.gate_between(
        ours, [options.python, REFERENCE], [], *case, run.GATE_STEPS))


def case_steps(options):
    rows = []
    for model, side, batch in STEP_CASES:
        ours = trainer_steps(options, model, side, batch)
        ours.images_per_s(20)
        for variant in options.against:
            theirs = reference_steps(options, variant, model, side, batch)
            mine, other, ratios, void = interleave(ours, theirs, batch, options.pairs)
            theirs.close()
            floor = FLOORS.get((model, side, batch))
            share = f"{mine / floor:.0%} of {floor} images/s (aim {FLOOR_AIM:.0%})" if floor else ""
            rows.append([f"{model}, {side} px, batch {batch}", variant.upper(), run.spread(ratios),
                         f"{mine:.0f} / {other:.0f}", share, str(void)])
            print(" | ".join(rows[-1]), file=sys.stderr)
        ours.close()
    return run.table(["training step on the GPU", "against", "times as fast", "images/s, this / other",
                      "of an H200's eager floor", "void pairs"], rows)


def case_ablation(options):
    """One lever at a time, each against the line before it."""
    ladder = [("f32 (TF32)", ["--precision", "f32-nhwc", "--graphs", "never"]),
              ("bf16, channels last", ["--precision", "bf16-nhwc", "--graphs", "never"]),
              ("fused normalisation", ["--precision", "bf16-nhwc", "--graphs", "never"]),
              ("data set resident on the GPU", ["--precision", "bf16-nhwc", "--graphs", "never"]),
              ("recorded steps", ["--precision", "bf16-nhwc", "--graphs", "always"])]
    for without, lines in (("fused-norm", ladder[:3]), ("residency", ladder[:4])):
        for _, arguments in lines:
            arguments += ["--without", without]
    rows = []
    for model, side, batch in STEP_CASES:
        drivers = [(name, trainer_steps(options, model, side, batch, *arguments)) for name, arguments in ladder]
        for (_, before), (name, after) in zip(drivers, drivers[1:]):
            after.images_per_s(20)
            mine, other, ratios, void = interleave(after, before, batch, options.pairs)
            rows.append([f"{model}, {side} px, batch {batch}", name, run.spread(ratios), f"{other:.0f} -> {mine:.0f}",
                         str(void)])
            print(" | ".join(rows[-1]), file=sys.stderr)
        for _, driver in drivers:
            driver.close()
    return run.table(["step on the GPU", "lever", "gain", "images/s", "void pairs"], rows)


def kinds_of(trace):
    """Of a trace: per step, launches from the host, and by kind how many kernels and microseconds; names by kind."""
    events = json.loads(trace.read_text())["traceEvents"]
    launches = sum(event.get("cat") in ("cuda_runtime", "cuda_driver") and "aunch" in event["name"] for event in events)
    kinds = {}
    for event in events:
        if event.get("cat") not in ("kernel", "gpu_memcpy", "gpu_memset"):
            continue
        name = event["name"].lower()
        kind = next((kind for kind, parts in KERNELS if any(part in name for part in parts)), "other")
        count, microseconds, names = kinds.get(kind, (0, 0.0, {}))
        names[event["name"]] = names.get(event["name"], 0.0) + event.get("dur", 0.0)
        kinds[kind] = count + 1, microseconds + event.get("dur", 0.0), names
    return launches / STEPS_PROFILED, kinds


def profile(driver, who, rows):
    """One side's kernels; the host's time is that of steps that are not profiled."""
    driver.images_per_s(20)
    block = driver.ask("go 100")
    with tempfile.TemporaryDirectory() as folder:
        trace = pathlib.Path(folder) / "trace.json"
        driver.ask(f"profile {STEPS_PROFILED} {trace}")
        launches, kinds = kinds_of(trace)
    driver.close()
    host = f"{launches:.0f} launches and {10 * block['cpu_seconds']:.2f} ms of the host a step"
    rows.append([*who, "all", f"{sum(count for count, _, _ in kinds.values()) / STEPS_PROFILED:.0f}",
                 f"{sum(microseconds for _, microseconds, _ in kinds.values()) / STEPS_PROFILED / 1000:.2f}", host])
    for kind in [kind for kind, _ in KERNELS] + ["other"]:
        count, microseconds, names = kinds.get(kind, (0, 0.0, {}))
        slowest = sorted(names, key=names.get, reverse=True)[:3]
        rows.append([*who, kind, f"{count / STEPS_PROFILED:.0f}", f"{microseconds / STEPS_PROFILED / 1000:.2f}",
                     "; ".join(name[:60].replace("|", " ") for name in slowest)])
    for row in rows[-2 - len(KERNELS):]:
        print(" | ".join(row), file=sys.stderr)


def case_profile(options):
    """What a step consists of, by libtorch's profiler on both sides: transposes, batch normalisation, launches."""
    rows = []
    for model, side, batch in PROFILED:
        shape = f"{model}, {side} px, batch {batch}"
        for name, more in [("this", ["--graphs", "never"]),
                           ("this, libtorch's normalisation", ["--graphs", "never", "--without", "fused-norm"]),
                           ("this, recorded", ["--graphs", "always"])]:
            profile(trainer_steps(options, model, side, batch, *more), [shape, name], rows)
        profile(reference_steps(options, "r1", model, side, batch), [shape, "R1"], rows)
    return run.table(["step on the GPU", "side", "kernels", "per step", "ms per step", "the three that take longest"], rows)


def case_packing(options):
    """K trainers on one GPU at once, each a process with a stream of its own: images per second of all together."""
    rows = []
    for model, side, batch in STEP_CASES:
        alone = None
        for count in PACKED:
            drivers = [trainer_steps(options, model, side, batch) for _ in range(count)]
            steps = max(100, drivers[0].steps_for(run.SECONDS_PER_BLOCK, batch))
            start = time.perf_counter()
            for driver in drivers:
                driver.process.stdin.write(f"go {steps}\n")
                driver.process.stdin.flush()
            images = sum(driver.read()["images"] for driver in drivers)
            rate = images / (time.perf_counter() - start)
            for driver in drivers:
                driver.close()
            alone = alone or rate
            rows.append([f"{model}, {side} px, batch {batch}", str(count), f"{rate:.0f}", f"{rate / alone:.2f}"])
            print(" | ".join(rows[-1]), file=sys.stderr)
    return run.table(["trainers on one GPU", "how many", "images/s, all", "times one"], rows)


def case_sweep(options):
    """24 mixed small trials through coordinator, worker and trainers; the other side runs one script after another."""
    if not options.data or not options.orchestrator:
        return "Not measured: `--data` (Fashion-MNIST's four IDX files) or `--orchestrator` was not given.\n"
    trials = [(model, batch, seed) for model in ("resnet-8", "resnet-20", "resnet-32", "resnet-56")
              for batch in (64, 128) for seed in range(3)]

    def theirs():
        for model, batch, seed in trials:
            run.run_json([options.python, REFERENCE, "e2e", "--model", model, "--batch", batch, "--seed", seed,
                          "--data", options.data])

    python_seconds = run.seconds_of(theirs)
    rows = []
    for slots in PACKED:
        with data_folder(options) as folder:
            seconds = run.seconds_of(lambda: shutil.rmtree(
                run.run_sweep(options, "gpu-mixed.yaml", *on_the_gpu(options, slots), "--data-dir", folder)))
        per_hour = len(trials) / seconds * 3600
        rows.append([str(slots), f"{seconds:.0f}", f"{per_hour:.0f}", f"{python_seconds:.0f}",
                     f"{python_seconds / seconds:.2f}"])
        print(" | ".join(rows[-1]), file=sys.stderr)
    return run.table(["24 mixed small trials, slots on the GPU", "seconds", "trials per hour",
                      "seconds of R1, one after another", "times as fast"], rows)


def on_the_gpu(options, slots):
    return ["--devices", options.device, "--slots", str(slots), "--trainer", str(options.trainer)]


@contextlib.contextmanager
def data_folder(options):
    """A folder that has the data set under its name, as `--data-dir` wants it."""
    with tempfile.TemporaryDirectory() as folder:
        (pathlib.Path(folder) / "fashion-mnist").symlink_to(options.data)
        yield folder


def case_start(options):
    """From the request to the first step on the GPU: a warm one is to take less than a second."""
    if not options.orchestrator:
        return "Not measured: `--orchestrator` was not given.\n"
    return run.table(run.START_HEAD, run.start_rows(options, *on_the_gpu(options, 1)))


def case_losses(options):
    """A whole sweep on real data, two losses and two seeds; again through NCCL, which must give weights of the same bits."""
    if not options.data or not options.orchestrator:
        return "Not measured: `--data` (Fashion-MNIST's four IDX files) or `--orchestrator` was not given.\n"
    rows, weights = [], []
    for way, environment in (("alone", None), ("a group of one over NCCL", NCCL_ALONE)):
        with data_folder(options) as data:
            start = time.perf_counter()
            folder = run.run_sweep(options, "gpu-losses.yaml", *on_the_gpu(options, 1), "--data-dir", data,
                                   env=environment)
            seconds = time.perf_counter() - start
        trials = json.loads(next(folder.glob("results/*/results.json")).read_text())["trials"]
        shutil.rmtree(folder)
        weights.append([trial["provenance"]["state_hash"] for trial in trials])
        for trial in trials:
            timing = trial["timing"]
            rows.append([way, f"{trial['cell']}, seed {trial['seed']}", f"{trial['result']['last_accuracy']:.1%}",
                         f"{timing['start_s']:.2f}", f"{timing['images_per_s']:.0f}", timing["execution"],
                         f"{seconds:.0f}"])
            print(" | ".join(rows[-1]), file=sys.stderr)
    same = sum(alone == group for alone, group in zip(*weights, strict=True))
    table = run.table(["a sweep on Fashion-MNIST", "trial", "accuracy", "request to first step, s", "images/s", "steps",
                       "seconds, the whole sweep"], rows)
    return table + f"\nWeights of the same bits both ways: {same} of {len(weights[0])} trials.\n"


CASES = {"drills": case_drills, "checks": case_checks, "gate": case_gate, "steps": case_steps,
         "profile": case_profile, "ablation": case_ablation, "packing": case_packing, "start": case_start,
         "losses": case_losses, "sweep": case_sweep}


def existing(text):
    """By its whole path, since sweeps run in folders of their own, and a bare name would be looked for on PATH."""
    # not resolved: Python knows a virtual environment by the path under which it is called
    path = pathlib.Path(text).absolute()
    if not path.exists():
        raise argparse.ArgumentTypeError(f"there is no `{text}`")
    return path


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}; without any: all")
    parser.add_argument("--trainer", type=existing, required=True)
    parser.add_argument("--tests", type=existing, help="the trainer's test binary, for `drills`")
    parser.add_argument("--orchestrator", type=existing, help="for `start`, `losses` and `sweep`")
    parser.add_argument("--data", type=existing,
                        help="folder with Fashion-MNIST's four IDX files, for `losses` and `sweep`")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--pairs", type=int, default=7, help="measurements of each side")
    parser.add_argument("--against", nargs="+", choices=["r0", "r1", "r2"], default=["r1", "r2"])
    parser.add_argument("--python", type=existing, default=sys.executable, help="one with torch 2.11.0")
    parser.add_argument("--write", type=pathlib.Path, help="document whose marked sections are replaced")
    options = parser.parse_args()
    unknown = [case for case in options.cases if case not in CASES]
    if unknown:
        parser.error(f"no case `{unknown[0]}`; there are {', '.join(CASES)}")
    for name in options.cases or CASES:
        print(f"== {name}", file=sys.stderr)
        card = subprocess.run(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"],
                              capture_output=True, text=True).stdout.strip()
        command = f"bench/gpu.py {name} --pairs {options.pairs}"
        when = datetime.date.today().isoformat()
        text = CASES[name](options) + f"\n{card}; {run.machine()}; commit {run.commit()}; {when}; `{command}`\n"
        print(text)
        if options.write:
            run.write(options.write, f"gpu-{name}", text)


if __name__ == "__main__":
    main()
