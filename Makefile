# Needs Python 3.11 or newer; everything else goes into .venv. `make` lists the targets.
PYTHON ?= python3
ARGS ?=
# Of deploy-kit: SuperNodes, the SuperLink's machine, and the folder to write.
NODES ?= 3
HOST ?=
OUT ?= deploy-kit
# A build of torch for other devices, such as cpu (uv's --torch-backend); it counts when .venv is made.
TORCH ?=

SHELL := /bin/sh
BIN := .venv/bin
READY := .venv/.ready

# One thread per process, for tests run side by side; files whose tests start many processes come two at a time afterwards.
THREADS := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help setup run deploy-demo deploy-kit soak claims-quick test lint format docs clean requirements

help:  ## List the targets
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 24

setup: $(READY)  ## Make the environment in .venv

run: $(READY)  ## Run a simulation; overrides in ARGS="strategy=matcha rounds=50"
	$(info Starting run_sim.py $(ARGS))
	@$(BIN)/python run_sim.py $(ARGS)

deploy-demo: $(READY)  ## Deploy on this machine: a SuperLink, three SuperNodes, one run
	@$(BIN)/python -m echelon.deployment.demo $(ARGS)

deploy-kit: $(READY)  ## Write a folder per machine of a deployment: NODES=3 HOST=lab.example.org OUT=deploy-kit
	@$(if $(HOST),,echo "Name the SuperLink's machine: make deploy-kit NODES=3 HOST=lab.example.org" >&2; exit 2;) \
	    $(BIN)/echelon kit --app . --nodes $(NODES) --host $(HOST) --out $(OUT) $(ARGS)

soak: $(READY)  ## Try random faults for 20 minutes (root may fill disks); ARGS="--seconds 60 --only command"
	@$(BIN)/python -m benchmarks.soak $(ARGS)

claims-quick: $(READY)  ## Check the direction of every published claim with small runs, in about five minutes
	$(BIN)/python -m benchmarks.claims --setting quick --check --out runs/claims-quick-$$(date +%Y-%m-%d-%H-%M-%S) $(ARGS)

# pytest ends with 5 when ARGS select no test of a kind.
test: lint  ## Check everything, then run all tests; paths and options for pytest in ARGS
	$(THREADS) $(BIN)/pytest -n logical --maxprocesses 4 -m "not ray and not deployment" $(ARGS) || [ $$? = 5 ]
	$(THREADS) $(BIN)/pytest -n 2 --dist loadfile -m "ray or deployment" $(ARGS) || [ $$? = 5 ]

lint: $(READY)  ## Check style, types and the layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .
	$(BIN)/lint-imports --no-logo

format: $(READY)  ## Put the code into its form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY)  ## Build the documentation site in build/site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet $(ARGS)
	@echo "build/site/index.html; with its search: $(BIN)/python -m http.server --bind 127.0.0.1 --directory build/site"

requirements: $(READY)  ## Pin the packages anew; ARGS=--upgrade takes the newest
	$(BIN)/uv pip compile --no-emit-index-url --generate-hashes --universal --python-version 3.11 --extra dev pyproject.toml \
	    -o requirements.txt $(ARGS)

clean:  ## Remove the environment, caches and build products; runs stay
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Every file is checked against its hash in requirements.txt, also uv itself and what builds a package from source; uv
# refuses to install the project, which has no hash, in the same step. TORCH takes torch from its own index, whose files
# are not in requirements.txt: only its version is checked.
# A terminal sees the progress of every download.
QUIET := $(shell test -t 2 || echo --quiet)
LOCKED := $(BIN)/uv pip install $(QUIET) --compile-bytecode --python $(BIN)/python \
    --build-constraints requirements.txt --require-build-hashes --preview-features build-dependency-hashes

$(READY): pyproject.toml requirements.txt
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(MAKE) --no-print-directory .venv
	@echo "Installing $$(grep -c '^[a-z].*==' requirements.txt) packages into .venv, once: 6.8 GB on disk with torch for CUDA;" \
	    "TORCH=cpu takes torch without it, about 4 GB less"
	@sed -n '/^uv==/,/# via/p' requirements.txt > .venv/uv.txt
	@awk '/^[a-z]/ { torch = /^(torch|torchvision|triton|nvidia-.*|cuda-.*)==/ } !torch' requirements.txt > .venv/others.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r .venv/uv.txt
ifeq ($(TORCH),)
	@$(LOCKED) --require-hashes -r requirements.txt
else
	@$(LOCKED) --require-hashes --no-deps -r .venv/others.txt
	@$(LOCKED) --torch-backend $(TORCH) --constraint .venv/others.txt \
	    $$(sed -n 's/^\(torch[a-z]*==[^ ]*\).*/\1/p' requirements.txt)
endif
	@$(LOCKED) --no-deps -e .
	@touch $(READY)

# Made anew only where there is none that works: an environment of another Python must not be written over.
.PHONY: .venv
.venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "Echelon needs Python 3.11 or newer; $(PYTHON) is: $$($(PYTHON) --version 2>&1 | head -n 1)." \
	         "Name another one: make setup PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
