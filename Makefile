# Every target makes its own environment: a bare clone needs only Python 3.10+ and make.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: setup test test-campaign test-sim test-remote test-scale test-gpu lint demo bench docs clean

setup: $(STAMP)

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch torchvision
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	if [ -x $(BIN)/hadolint ]; then $(BIN)/hadolint Dockerfile; fi

# One thread: the tests' tensors are small, and threads that wait for each other crawl on a busy machine.
# A process for each of two cores; a file's tests stay together, for they share what they prepare. Files begin
# in the order of tests/conftest.py, the slow ones first, so that no process waits for a long one at the end.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

# Kills, two processes at once, full disks, damaged files, the small form (docs/reliability.md).
test-campaign: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python tests/campaign/campaign.py --small

# TensorRT's real bindings and PyCUDA on simulated GPUs; downloads about 100 MB from PyPI, once.
# `make test-sim HWNAS_SIM=all`: the three commands of the README at ImageNet's size as well, seven minutes more.
test-sim: export HWNAS_SIM ?= 1
test-sim: $(STAMP)
	$(BIN)/python tests/sim/prepare.py
	$(BIN)/pytest -n 2 --dist worksteal tests/sim

# Devices over ssh: a real sshd on loopback, from Debian's package, which is unpacked and not installed.
test-remote: $(STAMP)
	$(BIN)/python tests/remote/prepare_targets.py
	HWNAS_REMOTE=1 OMP_NUM_THREADS=1 $(BIN)/pytest tests/remote

# A search on a Ray cluster of three machines that are processes of this one; downloads Ray, once.
# `make test-scale HWNAS_SCALE=all`: twenty kills as well, five minutes more.
test-scale: export HWNAS_SCALE ?= 1
test-scale: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[ray]"
	$(BIN)/pytest tests/scale

# On a machine with an NVIDIA GPU and `pip install 'hwnas[trt]'`: ten minutes, writes gpu-report.json
# (docs/gpu.md; without the tests: `hwnas doctor --gpu-report FILE`).
# Warnings stay warnings: a newer driver package may have some that nobody here has seen.
test-gpu: $(STAMP)
	$(BIN)/pytest tests/gpu -W default --gpu-report gpu-report.json

demo: $(STAMP)
	$(BIN)/hwnas quickstart

bench: $(STAMP)
	$(BIN)/python -m benchmarks

# The site, into site/; broken links and unknown names in the API pages are errors.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf .venv build site dist *.egg-info
