# Each target makes .venv itself when it is missing or older than pyproject.toml; nothing else has to be typed first.
#   make test ARGS="-k bucketing"      PYTHON=python3.12 make test      make test CONSTRAINTS=/dev/null (newest versions)

.DEFAULT_GOAL := test
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
CONSTRAINTS ?= .ci/constraints.txt
READY := $(VENV)/.ready-$(notdir $(CONSTRAINTS))
ARGS ?=
COVERAGE ?=

# The user's own PYTHONPATH or active environment must not change what is tested.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV

.PHONY: demo test test-fast services coverage bench bench-control bench-judge lint format clean

demo: $(READY)
	@$(BIN)/python -m examples.demo $(ARGS)

test: $(READY) services
ifeq ($(COVERAGE),)
	$(BIN)/python -m pytest $(ARGS)
else
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest $(ARGS)
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report --fail-under=90
	@echo "The decisions (core) are covered completely:"
	$(BIN)/python -m coverage report --include='*/canary_middleware/_core/*' --fail-under=100
endif

# What is quick to run while working: the rules, the contract of all front doors, the command line. No real servers.
test-fast: $(READY)
	$(BIN)/python -m pytest -q -x tests/contract/test_dispatch.py tests/contract/test_fallback.py tests/cli tests/adapters/test_asgi_seams.py \
		tests/test_architecture.py tests/test_canary.py tests/core/test_transitions.py tests/core/test_plan.py $(ARGS)

services:
	@.ci/services

coverage:
	@$(MAKE) --no-print-directory test COVERAGE=1

bench: $(READY)
	@$(BIN)/python -m tests.benchmarks $(ARGS)

bench-control: $(READY)
	@$(BIN)/python -m tests.benchmarks.control_plane

bench-judge: $(READY)
	@$(BIN)/python -m tests.benchmarks.judge $(ARGS)

# pyright runs on node: without one it would download its own, so it waits for a machine that has it.
lint: $(READY)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy --strict src tests/support
	@if command -v node >/dev/null 2>&1; then \
		PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/python -m pyright; \
	else echo "pyright: left out, node is not installed"; fi

format: $(READY)
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

$(READY): pyproject.toml $(wildcard $(CONSTRAINTS))
	@python=$$(.ci/python) || exit 1; \
	if ! $(BIN)/python -c '' 2>/dev/null; then \
		echo "Making $(VENV) with $$python"; \
		"$$python" -m venv --clear $(VENV) || exit 1; \
	fi
	@echo "Installing what pyproject.toml names into $(VENV) (once; about a minute)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input -c $(CONSTRAINTS) -e '.[dev]'
	@rm -f $(VENV)/.ready-*; touch $@

clean:
	rm -rf $(VENV) build dist .coverage .coverage.* htmlcov .mypy_cache .pytest_cache .ruff_cache .hypothesis
