# `make demo` and `make test` work on a bare Debian machine, as root; `make help` tells the rest.
SHELL := /bin/bash
PYTHON ?= python3
MACHINE := $(PYTHON) -m dev.machine
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTEST_ARGS ?=
PYTEST := $(BIN)/python -m pytest
ON_ALL := $(MACHINE) run --with trixie --pairs
ON_EACH := $(addprefix tests/integration/test_,outcomes.py limits.py attacks.py isolation.py) tests/contract
CGROUP_TESTS := tests/contract $(addprefix tests/integration/test_,outcomes.py limits.py isolation.py)

.DEFAULT_GOAL := help
.PHONY: help demo demo-cluster course test lint runner bench stress languages engines cgroup2 down clean

help:  ## show the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | expand -t 14

demo: $(READY)  ## grade a folder of submissions on one or two Docker hosts
	@engines="$$($(MACHINE) up)" && $(BIN)/python examples/demo.py $$engines

demo-cluster: $(READY)  ## hand in 200 programs to three nodes over Redis, and kill a node, the dispatcher and Redis on the way
	@$(MACHINE) redis && engines="$$($(MACHINE) up)" && $(BIN)/python examples/cluster/demo.py $$engines

course: $(READY)  ## grade the submissions to a small C course, each in four containers: clone, build, test, report
	@engines="$$($(MACHINE) up)" && set -- $$engines && $(BIN)/python examples/c_course.py --host "$$1"

# What depends on the engine runs on each version, all else on any. The many short files come last, so that no worker is left
# with a long one. Plain commands, so that one that is asked to end hears of it
test: $(READY) lint  ## lint, types, layers, then all tests on real Docker engines: this machine's, and Debian trixie's
	@$(MACHINE) redis
	@$(MACHINE) compiler
	@$(ON_ALL) $(PYTEST) -n auto --dist loadfile --no-loadscope-reorder $(addprefix --ignore=,$(ON_EACH)) tests/integration tests/cluster tests/runner tests/unit $(PYTEST_ARGS)
	@$(ON_ALL) $(PYTEST) -n auto --dist each --no-loadscope-reorder $(ON_EACH) $(PYTEST_ARGS)

lint: $(READY)  ## ruff, mypy, the layers, and whether the runner's binaries come from its sources
	$(BIN)/ruff check .
	$(BIN)/mypy -p jobmanager -p dev
	$(BIN)/mypy tests/typing/new_job_options.py
	$(BIN)/mypy -p jobmanager_grading -p inginious_container_api -p inginious
	$(BIN)/lint-imports
	$(BIN)/python -m dev.runner_build --check

runner: $(READY)  ## build the runner for both architectures, after a change in jobmanager/runner/src
	$(BIN)/python -m dev.runner_build

bench: $(READY)  ## measure: the figures of docs/
	@$(MACHINE) redis
	@$(MACHINE) run $(BIN)/python -m benchmarks

stress: $(READY)  ## the long tests; JOBMANAGER_STRESS_SEED=1,2,3 draws three random histories
	@$(MACHINE) redis
	@$(MACHINE) run $(BIN)/python -m pytest tests/stress $(PYTEST_ARGS)

languages: $(READY)  ## what docs/languages.md says of Java, Node, Go, Rust, numpy and Mono, in an image with all of them (2 GB)
	@$(MACHINE) run --languages $(BIN)/python -m pytest tests/languages $(PYTEST_ARGS)

engines: RELEASE = sid
engines: $(READY)  ## contract and integration tests on the engine of another Debian release (slow; RELEASE=trixie: not sid's)
	@$(MACHINE) redis
	@$(MACHINE) run --only $(RELEASE) $(PYTEST) -m "not daemon" tests/contract tests/integration $(PYTEST_ARGS)

cgroup2: RELEASE = bookworm
cgroup2: $(READY)  ## what the kernel decides, tested on cgroup v2 in a small virtual machine (slow; RELEASE=trixie: a newer Docker)
	@$(PYTHON) -m dev.virtual_machine --release $(RELEASE) $(PYTEST) --timeout 600 $(CGROUP_TESTS) $(PYTEST_ARGS)

down:  ## stop the engines that were started here
	@$(MACHINE) down

clean:  ## stop them, and delete their data, the images and the virtual environment
	@$(MACHINE) clean
	rm -rf $(VENV) build dist *.egg-info .hypothesis .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .coverage .coverage.* htmlcov

$(READY): setup.cfg pyproject.toml
	@$(MACHINE) python
	@echo "making the virtual environment $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@
