# Two lines are enough: `make demo` shows masks for phrases, `make test` proves the toolkit right.
# Every target sets up what it needs, may be run again, and picks up after an interruption.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast parity fuzz gpu format lint types check docs bench scout clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The stamp is written last: an interrupted installation is begun again.
$(VENV)/.runtime: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "refseg needs Python 3.11 or later; '$(PYTHON)' was not found. Say which one: make $(MAKECMDGOALS) PYTHON=/path/to/python3"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "refseg needs Python 3.11 or later; $$($(PYTHON) --version) is '$(PYTHON)'. Say which one: make $(MAKECMDGOALS) PYTHON=/path/to/python3"; exit 2; }
	@test -x $(BIN)/python && $(BIN)/python -m pip --version >/dev/null 2>&1 || { rm -rf $(VENV); $(PYTHON) -m venv $(VENV); }
	$(PIP) install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	$(PIP) install --quiet --constraint constraints.txt --editable '.[dev]'
	$(PIP) install --quiet --no-deps clip-anytorch==2.6.0  # for CLIP's vocabulary alone: the tests of its tokenizer read it
	@touch $@

setup: $(VENV)/.dev  ## virtual environment with pinned dependencies

demo: $(VENV)/.runtime  ## masks for phrases, on the example pictures, with the shipped checkpoint
	$(BIN)/refseg demo

test: $(VENV)/.dev  ## the whole test suite
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-fast: $(VENV)/.dev  ## without the full-size models
	$(BIN)/python -m pytest -n 2 --dist worksteal -m 'not slow'

parity: $(VENV)/.dev  ## numbers equal to the published code; PARITY_ROOT=DIR adds cases
	$(BIN)/python -m pytest tests/parity $(if $(PARITY_ROOT),--parity-root $(PARITY_ROOT))

fuzz: $(VENV)/.dev  ## the properties again, with examples that are drawn anew
	REFSEG_HYPOTHESIS=fuzz $(BIN)/python -m pytest $$(grep -rlE '^@given' tests)

gpu: $(VENV)/.dev  ## only the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

format: $(VENV)/.dev  ## lay the code out
	$(BIN)/ruff format src tests benchmarks
	$(BIN)/ruff check --fix src tests benchmarks

lint: $(VENV)/.dev
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/codespell src tests docs benchmarks README.md CHANGELOG.md

types: $(VENV)/.dev
	$(BIN)/mypy

check: lint types test-fast  ## what a commit must pass

docs: $(VENV)/.runtime  ## the page of checkpoints and the README's picture, made anew
	$(BIN)/refseg models --markdown > docs/models.md.part && mv docs/models.md.part docs/models.md
	$(BIN)/refseg demo
	cp refseg-demo/demo.png docs/images/demo.png

# Hours on two cores. Each stage goes on where it was stopped; the memory settings spare glibc from giving pages back at every step.
scout: export MALLOC_MMAP_THRESHOLD_ = 4000000000
scout: export MALLOC_TRIM_THRESHOLD_ = 16000000000
scout: $(VENV)/.runtime  ## the shipped checkpoint from nothing, and its card
	@for stage in naming scenes motion clips; do \
	  $(BIN)/refseg train scout/$$stage $$(test -e runs/scout-$$stage/run.toml && echo --resume) || exit $$?; \
	done
	$(BIN)/refseg calibrate runs/scout-clips/last.safetensors scenes --frames 1 --frames 6 --count 500 --out runs/scout.safetensors --force
	$(BIN)/refseg evaluate runs/scout.safetensors scenes --card
	$(BIN)/refseg evaluate runs/scout.safetensors scenes --split new --card
	$(BIN)/refseg evaluate runs/scout.safetensors scenes --shuffle-phrases --card
	$(BIN)/refseg evaluate runs/scout.safetensors scenes --frames 6 --count 200 --card

bench: $(VENV)/.runtime  ## speed of this machine, printed with its own matrix rate
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/predict.py

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
