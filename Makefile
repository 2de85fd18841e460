# Every verb that a person or the CI needs. The environment is made once, in .venv, and again when pyproject.toml changes; the
# extension is built again when its sources change.

VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

# PYTHON=/path/to/python3.12 chooses; else the first that runs and is new enough. `command -v` is not enough: version
# switchers put commands on the path that only say that they are not installed.
IS_NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c '$(IS_NEW_ENOUGH)' 2>/dev/null && echo $$python && break; done)

EXTENSION_SOURCES := setup.py $(wildcard gateway/*.pyx gateway/*.pxd)

.DEFAULT_GOAL := help
.PHONY: help run env test test-all check format asan fuzz bench bench-cluster docs clean clean-env servers present-servers

help: ## show the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: env ## start a node on this machine: clients on port 7800, operations on 7880, everything in ./data
	@exec $(BIN)/parley serve $(ARGS)

env: $(VENV)/built ## make the environment and build the extension (the other verbs do it by themselves)

servers: env ## get the servers that tests run on (Cassandra, Redis, Toxiproxy) into build/servers, and say what is missing
	@$(BIN)/python -m tests.servers.installing

# Says nothing when all are there. What could not be had is tried again after an hour, or by `make servers`.
present-servers: env
	@$(BIN)/python -m tests.servers.installing --quick

test: present-servers ## run the tests (ARGS are pytest's)
	@$(BIN)/python -m pytest -m "not slow" $(ARGS)

test-all: present-servers ## run all tests, the slow ones too
	@$(BIN)/python -m pytest $(ARGS)

check: env ## style, format, types, and the extension against its stub
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/stubtest gateway._framing --mypy-config-file pyproject.toml --allowlist gateway/_framing.allow --ignore-disjoint-bases

format: env ## put the sources into the format that `check` wants
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

# The sanitized copy stands beside the tree, not in it: the tests import it because it comes first on the path.
ASAN := build/asan
asan: env ## run the kernel's tests on an extension built with AddressSanitizer
	@CFLAGS="-fsanitize=address -fno-omit-frame-pointer -g -O1" PARLEY_BUILD_DIR=$(ASAN) \
		$(BIN)/python setup.py --quiet build --build-base $(ASAN) --build-lib $(ASAN)/lib
	@LD_PRELOAD="$$(gcc -print-file-name=libasan.so)" PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0 \
		PYTHONPATH=$(ASAN)/lib:. $(BIN)/pytest -p no:cacheprovider tests/kernel $(ARGS)

fuzz: env ## search for frames and schedules that break the protocol, the kernel or the cluster, for longer than `test` does
	@$(BIN)/python -m pytest --hypothesis-profile=fuzz -o faulthandler_timeout=0 -m "" tests/protocol tests/kernel tests/cluster $(ARGS)

bench: env ## measure a node: make bench ARGS="pairs --workers 1" (without ARGS: what there is)
	@$(BIN)/python -m bench $(or $(ARGS),--help)

bench-cluster: present-servers ## measure nodes over a Cassandra and a Redis of their own: make bench-cluster ARGS="pairs --nodes 2"
	@PARLEY_STORE=scylla $(BIN)/python -m tests.servers $(BIN)/python -m bench $(or $(ARGS),--help)

docs: env ## write again what the documents say of the code (settings, figures)
	@$(BIN)/python docs/generate.py

clean: ## remove what was built
	rm -rf build *.egg-info gateway/_framing.*.so .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -prune -not -path './$(VENV)/*' -exec rm -rf {} +

clean-env: clean ## remove the environment too; the data stay
	rm -rf $(VENV)

$(VENV)/installed: pyproject.toml
	@test -n "$(PYTHON)" || { echo "parley needs Python 3.11 or newer: install one, or say PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c '$(IS_NEW_ENOUGH)' || { echo "parley needs Python 3.11 or newer, $(PYTHON) is older: say PYTHON=/path/to/another"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make environments: install its venv module (python3-venv)"; exit 1; }
	@command -v cc >/dev/null || { echo "parley needs a C compiler: install gcc or clang (build-essential)"; exit 1; }
	@$(PYTHON) -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' \
		|| { echo "$(PYTHON) has no C headers: install them (python3-dev)"; exit 1; }
	@echo "making the environment in $(VENV)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip --disable-pip-version-check install --quiet \
		$$($(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"])')
	@$(BIN)/python -m pip --disable-pip-version-check install --quiet --no-build-isolation --editable '.[dev]'
	@touch $@

$(VENV)/built: $(VENV)/installed $(EXTENSION_SOURCES)
	@echo "building the extension"
	@$(BIN)/python setup.py --quiet build_ext --inplace
	@touch $@
