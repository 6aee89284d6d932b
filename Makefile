# `make` prints the targets. Needs make and Python 3.11 to 3.13, nothing else; PYTHON= picks the
# interpreter, VENV= the virtual environment.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
VENV ?= .venv
# What the commands below run, so that VENV may also name an environment made elsewhere.
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.runwire-installed
# Three on two cores: some tests wait for clocks, but each process imports all tests.
WORKERS := $(shell expr \( 3 \* $$(getconf _NPROCESSORS_ONLN) + 1 \) / 2)
PYTEST := $(BIN)/python -m pytest
# Tests against servers, two files side by side: each worker starts servers of its own. Tests of
# whole stacks, faults and trainings are the only ones on the machine: they watch for moments.
SIDE_BY_SIDE := $(PYTEST) -n 2 --dist loadfile tests/contract tests/integration --ignore tests/integration/cli
ALONE := tests/integration/cli tests/with_torch tests/faults tests/e2e
# The tests start hundreds of interpreters: without cached bytecode each compiles what it imports.
export PYTHONDONTWRITEBYTECODE :=
# The same interpreter everywhere: the first of these that is new enough.
FIND_PYTHON = for python in $(or $(PYTHON),python3 python3.13 python3.12 python3.11); do \
	  if "$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	    2>/dev/null; then echo "$$python"; exit 0; fi; done; \
	echo "error: no Python 3.11, 3.12 or 3.13 among: $(or $(PYTHON),python3 python3.13 python3.12 python3.11)." >&2; \
	echo "Install one, or name it: make $(or $(MAKECMDGOALS),setup) PYTHON=/path/to/python3.12" >&2; exit 1

.PHONY: help setup torch check fmt test contract integration faults e2e bench up down servers \
	servers-down servers-status demo clean

help:  ## print this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(INSTALLED)  ## make .venv and install runwire, its extras and the development tools

$(INSTALLED): pyproject.toml
	@python="$$($(FIND_PYTHON))"; \
	if [ ! -x $(BIN)/python ]; then \
	  if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
	    echo "error: $$python cannot make virtual environments (module ensurepip is missing)." >&2; \
	    echo "On Debian and Ubuntu: sudo apt install python3-venv, then make setup." >&2; exit 1; fi; \
	  echo "making $(VENV) with $$("$$python" --version)"; "$$python" -m venv $(VENV); fi
	@echo "installing into $(VENV) (about 400 MB the first time)"
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable '.[dev]'
	@touch $@

torch: setup  ## install torch too (3 GB): tests that train are skipped without it
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable '.[dev,torch]'

check: setup  ## format, lint, types, import arrows, unit and house tests (under a minute)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	MYPYPATH=deploy/native $(BIN)/mypy -p runwire_servers
	$(BIN)/lint-imports
	RUNWIRE_TEST_QUICK=1 $(PYTEST) -n $(WORKERS) --dist worksteal -m "not process" tests/unit tests/house

fmt: setup  ## format the code and apply the safe lint fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: setup  ## every test, with real servers; faults in their short form
	$(PYTEST) -n $(WORKERS) tests/unit tests/house
	$(SIDE_BY_SIDE)
	$(PYTEST) $(ALONE)

contract: setup  ## one suite per protocol, run on every implementation
	$(PYTEST) tests/contract

integration: setup  ## the parts against real servers
	$(SIDE_BY_SIDE) --ignore tests/contract
	$(PYTEST) tests/integration/cli

faults: setup  ## kill, cut and fill things on purpose, long form (a quarter of an hour and more)
	cd tests && $(abspath $(BIN))/python -m faults.catalogue
	$(PYTEST) -m fault --ignore tests/faults tests
	RUNWIRE_FAULTS=long $(PYTEST) tests/faults

e2e: setup  ## from `import runwire` to the answer of an SQL query, and the README's commands
	$(PYTEST) tests/e2e

bench: setup  ## run the benchmarks and print each figure beside its floor
	$(BIN)/python benchmarks/run.py

up: setup  ## start the embedded stack in the background
	$(BIN)/runwire up

down: setup  ## stop the embedded stack
	$(BIN)/runwire down

# SERVERS chooses: kafka kafka3 kafka-secure registry versitygw minio. deploy/README.md says more.
servers:  ## start Kafka, registry and S3 store on this machine (no Docker; SERVERS= chooses)
	@python="$$($(FIND_PYTHON))"; exec "$$python" deploy/native/servers.py start $(SERVERS)

servers-down:  ## stop them; what they stored stays
	@python="$$($(FIND_PYTHON))"; exec "$$python" deploy/native/servers.py stop $(SERVERS)

servers-status:  ## say which run, where, and as which pid
	@python="$$($(FIND_PYTHON))"; exec "$$python" deploy/native/servers.py status

demo:  ## train a small GPT for two minutes and look at the run; KAFKA=1 ships it through a broker
	@python="$$($(FIND_PYTHON))"; exec "$$python" examples/demo.py --minutes $(or $(MINUTES),2) $(if $(KAFKA),--kafka)

clean:  ## remove environments, caches and the demo's data (stop the stack first)
	rm -rf .venv .venv-demo .demo .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
