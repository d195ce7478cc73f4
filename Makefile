# Needs make, Python >= 3.10 and a package registry; everything is installed into .venv, at the tested versions.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.installed
# What each test does is small: one thread per test process, one process per core.
# Each starts on a half of its own, in order, so that what a file's tests share is made once.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist worksteal

.PHONY: setup demo forecast fuzz gpu gpu-pack test test-slow test-pages docs notebooks lint format types wheel-test clean

setup: $(READY) ## the environment alone

demo: $(READY) ## train, sample and score on the digits: runs/demo/
	$(BIN)/sdescore demo --out runs/demo

experiment-%: $(READY) ## one of scripts/TUTORIAL.md, such as experiment-low-density: a picture and its numbers
	$(BIN)/python scripts/experiments/$(subst -,_,$*).py

forecast: $(READY) ## refine forecasts of a synthetic series, and sample futures: runs/forecast/
	$(BIN)/python scripts/experiments/forecast.py

test: $(READY) ## the tests that need neither minutes nor a GPU
	$(PYTEST)

test-slow: $(READY)
	$(PYTEST) -m "slow and not gpu"

test-pages: $(READY) ## the code of the README, the tutorial and docs/, as it is written
	$(PYTEST) -m pages

docs: $(READY) ## the site: build/site/index.html; no dead links, and every public name in the reference
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

notebooks: $(READY) ## the tutorial as three notebooks, run: build/notebooks/
	OMP_NUM_THREADS=2 $(BIN)/python scripts/notebooks.py

# A failure names its case. FUZZ_SEED=n begins with that seed, FUZZ_REPORT=file notes how many cases there were.
MINUTES ?= 1
fuzz: $(READY) ## random arguments and damaged files, for MINUTES=1
	OMP_NUM_THREADS=1 FUZZ_MINUTES=$(MINUTES) $(BIN)/pytest -q -p no:xdist -m fuzz

gpu: $(READY) ## tests, training, sampling and likelihood on a GPU in 8 minutes: runs/gpu/table.md; small without one
	$(BIN)/python scripts/bench/gpu.py --minutes 8

DATA ?=
gpu-pack: $(READY) ## what a machine without a network lacks for that, with DATA=folder of CIFAR-10; there .ci/gpu runs it
	$(BIN)/python scripts/bench/gpu_pack.py $(if $(DATA),--data $(DATA))

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(READY) ## tests and scripts see an installed sdescore: wheel-test checks them
	$(BIN)/mypy sdescore solvers nets

wheel-test: $(READY) ## what a user gets: the built wheel in a fresh environment, away from the sources
	PYTHON="$(PYTHON)" .ci/wheel-test

# The stamp makes a second run start at once; a change of what is to be installed installs again.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python >= 3.10 is needed; set PYTHON=" if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@# Tests compare with the samplers of these alone, which need nothing of what the packages require.
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt --no-deps azula k-diffusion
	@touch $@

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
