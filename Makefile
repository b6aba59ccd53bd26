# Each target brings what it needs: a virtual environment in .venv, from make, python3, and the package registry.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo files test check peers peers-soak bench performance chaos soak stress fuzz interop format coverage clean

demo: .venv/ready
	$(BIN)/zmdp demo $(DEMO)

# The files of one folder, for plain REQ clients: see examples/files.
files: .venv/ready
	$(BIN)/python examples/files/serve.py $(FILES)

test: .venv/ready
	$(BIN)/pytest -q $(TESTS)

# Linters, types, and the coverage gate on the core; .ci/run calls this, and then the tests.
check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

coverage: .venv/ready
	$(BIN)/pytest -q tests/core --cov=zmdp_trio/_core --cov=zmdp_trio/_wire --cov-report=term-missing --cov-fail-under=95

# What the tests in tests/peers need: PIGATO and zeromq, which want Node, and majortomo.  Without them they are skipped.
peers: .venv/peers tests/peers/node/node_modules/ready

.venv/peers: .venv/ready
	$(BIN)/python -m pip install --quiet --editable ".[peers]"
	touch $@

NODE_PACKAGE := $(addprefix tests/peers/node/,package.json .npmrc zmq-adapter/package.json)

tests/peers/node/node_modules/ready: $(NODE_PACKAGE)
	@command -v node >/dev/null && command -v npm >/dev/null || \
		{ echo "Node and npm are missing; on Debian: apt-get install nodejs npm" >&2; exit 1; }
	cd tests/peers/node && npm install --loglevel=error
	touch $@

# Two minutes with a stream running, half a minute of work without a heartbeat, and every check of conformance over tcp;
# `make test` runs a short form.
peers-soak: peers
	ZMDP_PEERS_SECONDS=$(or $(PEERS_SECONDS),120) $(BIN)/pytest -q tests/peers/test_patience.py \
		tests/conformance/test_our_broker.py

# The tables at the end of docs/interop.md, of what the tests find.
interop: peers
	$(BIN)/python docs/interop/make_tables.py

# zmdp-trio and its peers side by side, some twelve minutes: benchmarks/README.md.  BENCH="--quick" to see that it
# works.  Peers that are not installed are left out, and it says what brings them; those on Node come where there is npm.
bench: .venv/bench
	@command -v npm >/dev/null && $(MAKE) tests/peers/node/node_modules/ready || true
	$(BIN)/python benchmarks/run.py $(BENCH)

# The tables and plots of docs/performance.md, from docs/performance/results.json: `make bench` puts figures there with
# BENCH="--into docs/performance/results.json".
performance: .venv/bench
	$(BIN)/python benchmarks/document.py

.venv/bench: .venv/ready
	$(BIN)/python -m pip install --quiet --editable ".[bench]"
	touch $@

# Long runs; the tests run a short form of each.  First a thousand clusters in memory; then processes over tcp: kill -9 of
# workers and brokers, and SIGTERM of one worker after the other, under load, three minutes; CHAOS="--seconds 600" for
# more.  `make soak`: ten minutes of mixed load, for memory and descriptors (Linux).
chaos: .venv/ready
	$(BIN)/python -m chaos.simulated
	$(BIN)/python -m chaos.kills $(CHAOS)
	$(BIN)/python -m chaos.two_brokers $(CHAOS)
	$(BIN)/python -m chaos.rolling $(CHAOS)

soak: .venv/ready
	$(BIN)/python -m chaos.soak $(SOAK)

# 50 seeds of random cancellation on each transport; STRESS=500 for more.
stress: .venv/ready
	ZMDP_STRESS=$(or $(STRESS),50) $(BIN)/pytest -q tests/shell/test_transport_contract.py -k other_seeds

# A million messages with mistakes against each machine, 100,000 steps of a broker's peers, a minute of coverage-guided
# fuzzing per decoder (Linux); FUZZ="--seed 7" for the first two.  Then 1000 other examples of each property of the core.
fuzz: .venv/fuzz
	$(BIN)/python -m fuzz.steps $(FUZZ)
	$(BIN)/python -m fuzz.machines $(FUZZ)
	$(BIN)/python -m fuzz.decoders
	ZMDP_EXAMPLES=1000 $(BIN)/pytest -q tests/core

.venv/fuzz: .venv/ready
	$(BIN)/python -m pip install --quiet --editable ".[fuzz]"
	touch $@

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
