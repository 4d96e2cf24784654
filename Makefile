# Everything here does the set-up it needs (libtorch from pinned wheels, a release build) and no work twice.
# The Rust tool chain is the one on PATH (scripts/rust.sh checks its version); one profile serves build, clippy and tests, so that they share what they compile.
#
#   make run [SWEEP=sweeps/quickstart.yaml] [ARGS=...]   train a sweep on this machine and print its table
#   make test     formatting, clippy, docs, every test   make build    both binaries
#   make bench    against PyTorch (bench/README.md)      make soak     kill everything, many times
#   make wheel    for pip                                make dist     an archive with libtorch in it (KIND=cpu or cuda)
#   make test-dist   what both install runs, without this checkout
#   make clean    remove what cargo built
#   make test-exporters   results read by TensorBoard, MLflow, trackio and pyarrow, which it installs
#   make test-browser   the page in a headless Chromium, which it installs
#   make test-latex   tables through a real LaTeX (pdflatex with booktabs, pdftotext)
#   make test-cluster   on a real Slurm, several nodes on this machine (tests/slurm)
#   make stand-in-gpu   what needs a GPU, on one that is none (tests/stand_in_gpu/README.md)
#   make mutants [CRATES="protocol journal"] [ARGS="--shard 0/8"]   change the code and expect a test to fail (docs/mutants.md)

SWEEP ?= sweeps/quickstart.yaml
CRATES ?= protocol journal report schedule sweep
ARGS ?=
CARGO ?= cargo
TARGET_DIR := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
BINARIES := $(abspath $(TARGET_DIR))/release
DIST := $(abspath $(TARGET_DIR))/dist
KIND ?= cpu

ifdef LIBTORCH
LIBTORCH_SETUP := scripts/libtorch.sh --check "$(LIBTORCH)"
else
LIBTORCH := $(CURDIR)/.libtorch
LIBTORCH_SETUP := scripts/libtorch.sh "$(LIBTORCH)"
endif
export LIBTORCH
# Part of the name of the build, which processes compare and results record; empty outside a git checkout.
export ORCHESTRATOR_COMMIT := $(or $(ORCHESTRATOR_COMMIT),$(shell git describe --always --dirty --abbrev=7 --exclude='*' 2>/dev/null))
# Another way of naming a libtorch, which would win over LIBTORCH in tch's build script.
unexport LIBTORCH_USE_PYTORCH

.PHONY: run build test test-latex test-cluster test-exporters test-browser docs-pictures measure-page mutants lint bench soak stand-in-gpu wheel dist dist-binaries test-dist clean setup

run: build
	@"$(BINARIES)/orchestrator" run "$(SWEEP)" $(ARGS)

setup:
	@CARGO="$(CARGO)" scripts/rust.sh
	@command -v $(or $(CXX),g++) >/dev/null || { echo "error: g++ is not installed (on Debian: apt install g++)" >&2; exit 1; }
	@$(LIBTORCH_SETUP)

# Two crates and what they use; the others are tests. Cargo gives all calls of this file the same features, so that none
# compiles a crate that another has compiled (tests/tests/tidy.rs).
PROGRAMS := --package cli --package trainer --bins
build: setup
	@$(CARGO) build --release --locked $(PROGRAMS)

lint: setup
	@$(CARGO) fmt --all --check
	@$(CARGO) clippy --release --workspace --all-targets --locked --quiet -- -D warnings
	@RUSTDOCFLAGS="-D warnings" $(CARGO) doc --release --workspace --no-deps --locked --quiet

# Unit tests first: they are quick, and what they find explains a failure of the whole system. Examples: some are processes
# that tests start. Whole systems mostly wait, for leases and for processes: four at a time.
test: build lint
	@$(CARGO) build --release --workspace --locked --examples
	@$(CARGO) test --release --workspace --locked --lib --bins
	@$(CARGO) test --release --workspace --locked --test '*' -- --test-threads 4

# Needs pdflatex with booktabs, siunitx and pgfplots, and pdftotext (on Debian: texlive-latex-recommended, texlive-science,
# texlive-pictures, poppler-utils).
test-latex: setup
	@$(CARGO) test --release --workspace --locked --test report latex -- --ignored

# Needs Python's venv module and a package index.
EXPORTERS := $(CURDIR)/.exporters
test-exporters: build
	@tests/exporters/prepare.sh "$(EXPORTERS)"
	@ORCHESTRATOR_EXPORTERS="$(EXPORTERS)" $(CARGO) test --release --workspace --locked --test exporters -- --ignored

# Needs chromium, chromedriver and axe-core, which the first line gets where it can.
AXE := $(CURDIR)/.axe.js
BROWSER_TEST := ORCHESTRATOR_AXE="$(AXE)" $(CARGO) test --release --workspace --locked --test browser -- --ignored
test-browser: build
	@tests/browser/prepare.sh "$(AXE)"
	@$(BROWSER_TEST) --skip pictures --skip first_paint_and_memory

# The pictures of docs/page.md and README.md, of the quickstart sweep, which it trains.
docs-pictures: build
	@tests/browser/prepare.sh "$(AXE)"
	@$(BROWSER_TEST) pictures

# The numbers of docs/page.md: two journals in FOLDER, which takes 1 GB, and Chromium.
measure-page: build
	@test -n "$(FOLDER)" || { echo "error: FOLDER=... is to hold the journals" >&2; exit 1; }
	@tests/browser/prepare.sh "$(AXE)"
	@for trials in 2000 100000; do test -d "$(FOLDER)/$$trials" || \
	  $(CARGO) run --release --quiet --locked -p journal --example measure -- $$trials "$(FOLDER)" keep; done
	@ORCHESTRATOR_LARGE_STATE="$(FOLDER)" $(BROWSER_TEST) --nocapture first_paint_and_memory

# Four at a time: each has a Slurm of its own, and mostly waits.
test-cluster: build
	@tests/slurm/prepare.sh
	@$(CARGO) test --release --workspace --locked --test cluster --test real_slurm --test real_sshd -- --ignored --test-threads 4 $$(tests/slurm/skips.sh)

# The simulator runs few seeds: each mutant costs them again.
mutants:
	@command -v cargo-mutants >/dev/null || { echo "error: cargo-mutants is not installed: cargo install --locked cargo-mutants@27.1.0" >&2; exit 1; }
	@SIMULATION_SEEDS=10 $(CARGO) mutants $(CRATES:%=--package %) --output "$(TARGET_DIR)" $(ARGS)

soak: build
	@$(CARGO) test --release --workspace --locked --test soak --test control_plane -- --ignored --nocapture

# Drills that start processes of their own need NCCL's wire, and `member` is one of those processes. Tests named `real_`
# check the bindings of CUDA's libraries and NCCL against the real ones, which need no GPU for that.
STAND_IN := $(CURDIR)/.stand-in-gpu
stand-in-gpu: build
	@ORCHESTRATOR_CUDA=1 scripts/libtorch.sh "$(CURDIR)/.libtorch-cuda"
	@tests/stand_in_gpu/build.sh "$(CURDIR)/.libtorch-cuda" "$(STAND_IN)"
	@$(CARGO) test --release --workspace --locked --lib --no-run
	@LD_LIBRARY_PATH="$(STAND_IN)/site/torch/lib" STAND_IN_GPUS=2 STAND_IN_GPU_MIB=1024 \
	  $(CARGO) test --release --workspace --locked --lib -- --ignored --test-threads 1 \
	  --skip two_processes --skip a_killed_process --skip drills::member --skip real_
	@LD_LIBRARY_PATH="$(CURDIR)/.libtorch-cuda/site/torch/lib" \
	  $(CARGO) test --release --workspace --locked --lib -- --ignored real_
	@ORCHESTRATOR_STAND_IN_GPU="$(STAND_IN)" \
	  $(CARGO) test --release --workspace --locked --test stand_in_gpu -- --ignored --test-threads 1

bench: build
	@python3 bench/run.py --binaries "$(BINARIES)" $(ARGS)

# Both binaries once more, linked for old systems.
dist-binaries: build
	@CARGO="$(CARGO)" scripts/dist_binaries.sh "$(BINARIES)" "$(DIST)" build --release --locked $(PROGRAMS)

wheel: dist-binaries
	@python3 scripts/package.py wheel --binaries "$(DIST)/bin" --output "$(DIST)" --libtorch "$(LIBTORCH)"

dist: dist-binaries
ifeq ($(KIND),cuda)
	@ORCHESTRATOR_CUDA=1 scripts/libtorch.sh "$(CURDIR)/.libtorch-cuda"
	@python3 scripts/package.py bundle --kind cuda --binaries "$(DIST)/bin" --output "$(DIST)" --libtorch "$(CURDIR)/.libtorch-cuda"
else
	@python3 scripts/package.py bundle --kind cpu --binaries "$(DIST)/bin" --output "$(DIST)" --libtorch "$(LIBTORCH)"
endif

test-dist: wheel dist
	@$(CARGO) test --release --workspace --locked --test installed -- --ignored --test-threads 1

clean:
	@$(CARGO) clean
