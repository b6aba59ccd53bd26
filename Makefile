# Each target brings what it needs: a virtual environment in .venv, from make, python3, and the package registry.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check bench format coverage clean

demo: .venv/ready
	$(BIN)/zmdp demo $(DEMO)

test: .venv/ready
	$(BIN)/pytest -q $(TESTS)

# Linters, types, and the coverage gate on the core; .ci/run calls this, and then the tests.
check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

coverage: .venv/ready
	$(BIN)/pytest -q tests/core --cov=zmdp_trio/_core --cov=zmdp_trio/_wire --cov-report=term-missing --cov-fail-under=95

bench: .venv/ready
	$(BIN)/python benchmarks/speed.py $(BENCH)
	$(BIN)/python benchmarks/cancellation.py
	$(BIN)/python benchmarks/backpressure.py

format: .venv/ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage build dist
