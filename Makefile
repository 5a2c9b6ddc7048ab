# Needs Python 3.11 or newer; everything else goes into .venv. `make` lists the targets.
PYTHON ?= python3
ARGS ?=

SHELL := /bin/sh
BIN := .venv/bin
READY := .venv/.ready

# One thread per process, for tests run side by side; those that start many processes come one by one afterwards.
THREADS := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help setup run deploy-demo test lint format clean requirements

help:  ## List the targets
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 24

setup: $(READY)  ## Make the environment in .venv

run: $(READY)  ## Run a simulation; overrides in ARGS="strategy=matcha rounds=50"
	@$(BIN)/python run_sim.py $(ARGS)

deploy-demo: $(READY)  ## Deploy on this machine: a SuperLink, three SuperNodes, one run
	@$(BIN)/python -m echelon.deployment.demo $(ARGS)

# pytest ends with 5 when ARGS select no test of a kind.
test: lint  ## Check everything, then run all tests; paths and options for pytest in ARGS
	$(THREADS) $(BIN)/pytest -n logical --maxprocesses 4 -m "not ray and not deployment" $(ARGS) || [ $$? = 5 ]
	$(THREADS) $(BIN)/pytest -m "ray or deployment" $(ARGS) || [ $$? = 5 ]

lint: $(READY)  ## Check style, types and the layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .
	$(BIN)/lint-imports --no-logo

format: $(READY)  ## Put the code into its form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

requirements: $(READY)  ## Pin the packages anew; ARGS=--upgrade takes the newest
	$(BIN)/uv pip compile --no-emit-index-url --universal --python-version 3.11 --extra dev pyproject.toml \
	    -o requirements.txt $(ARGS)

clean:  ## Remove the environment, caches and build products; runs stay
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml requirements.txt
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(MAKE) --no-print-directory .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.txt uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements.txt -e .
	@touch $(READY)

# Made anew only where there is none that works: an environment of another Python must not be written over.
.PHONY: .venv
.venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "Echelon needs Python 3.11 or newer; $(PYTHON) is: $$($(PYTHON) --version 2>&1 | head -n 1)." \
	         "Name another one: make setup PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
