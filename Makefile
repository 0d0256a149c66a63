# make demo   train the digits net and look at it      make test    everything that CI checks
# make bench  what a step costs, beside hand-written loops    make test-slow  the tests that take long
# make test-soak  hundreds of kills, signals, cuts and mutations, half an hour
# make test-distributed  what needs several processes, a part of make test
# make test-oldest  the suite with the oldest versions that are allowed (6 GB: their torch has CUDA)
# make docs   build the documentation's site into build/site
# make coverage  the test suite, counting which lines run
# make test-browser  reports and notebooks in Chromium, and JupyterLab itself
# make bench-readers  reading from files and in worker processes, beside loops by hand
# make bench-peers  the same beside nine other trainers, in an environment of their own
# make pictures  record the terminal and the notebook that the README shows
# make gpu-check  correctness, waits, memory and speed on an accelerator, as a table in ten minutes
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow and not gpu and not browser"
# Whether the environment is already what these files ask for: touch a stamp once it is.
DEMO_STAMP := $(VENV)/.demo
TEST_STAMP := $(VENV)/.test
BROWSER_STAMP := $(VENV)/.browser
# The peers stay out of .venv: they bring a hundred packages, and CI must do without.
PEERS := .venv-peers
PEERS_STAMP := $(PEERS)/.peers
OLDEST := .venv-oldest
OLDEST_STAMP := $(OLDEST)/.oldest

.PHONY: demo test lint types pytest docs coverage test-oldest test-distributed test-slow test-soak test-browser bench bench-readers bench-peers gpu-check pictures clean

demo: $(DEMO_STAMP)
	$(BIN)/python examples/digits.py

test: lint types docs pytest

lint: $(TEST_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(TEST_STAMP)
	rm -rf build/typecheck build/lib
	$(BIN)/pip install -q --no-deps --no-build-isolation --target build/typecheck .
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

pytest: $(TEST_STAMP)
	$(PYTEST)

# Strictly, and without a network. mkdocstrings reads the package as it is installed: trainer/ is fitorch.
docs: $(TEST_STAMP)
	rm -rf build/site-lib build/lib
	$(BIN)/pip install -q --no-deps --no-build-isolation --target build/site-lib .
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q --strict

# As pytest, counting lines, which takes half as long again: at least 95 % must run.
coverage: $(TEST_STAMP)
	$(PYTEST) --cov --cov-report=term

# With old versions of what it depends on; what they warn of has been deprecated since.
test-oldest: $(OLDEST_STAMP)
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest -n 2 --dist loadgroup -W ignore::DeprecationWarning -m "not slow and not gpu and not browser"

# What needs several processes, by itself.
test-distributed: $(TEST_STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow and not gpu" tests/distributed

test-slow: $(TEST_STAMP)
	$(BIN)/python -m pytest -m slow

test-soak: $(TEST_STAMP)
	FITORCH_SOAK=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup -m "not gpu" tests/resume tests/checkpoint/test_store.py tests/checkpoint/test_store_faults.py tests/checkpoint/test_encoding.py tests/test_files.py tests/distributed/test_failures.py

# Without a Chromium these tests skip: so get one, where that is allowed, or stop.
test-browser: $(BROWSER_STAMP) docs
	command -v chromium || command -v chromium-browser || command -v google-chrome || apt-get install -y chromium
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m browser tests/browser

bench: $(DEMO_STAMP)
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/compiled.py
	$(BIN)/python benchmarks/profile_step.py
	$(BIN)/python benchmarks/penalties.py
	$(BIN)/python benchmarks/metrics.py
	$(BIN)/python benchmarks/data.py
	$(BIN)/python benchmarks/checkpoint.py
	$(BIN)/python benchmarks/display.py
	$(BIN)/python benchmarks/scaling.py

# Readers beside loops by hand: HDF5, zarr, webdataset, worker processes; it writes files of 2 GB.
bench-readers: $(TEST_STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/readers.py

bench-peers: $(PEERS_STAMP)
	mkdir -p docs/images
	$(PEERS)/bin/python benchmarks/peers.py --chart docs/images/peers.png

# Skips where there is no accelerator; it runs in any environment that has fitorch.
gpu-check: $(DEMO_STAMP)
	$(BIN)/python benchmarks/gpu_check.py

pictures: $(TEST_STAMP)
	$(BIN)/python docs/pictures.py

clean:
	rm -rf $(VENV) $(PEERS) $(OLDEST) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .coverage

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(DEMO_STAMP): $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install -q -c constraints.txt -e ".[demo]"
	touch $@

$(TEST_STAMP): $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install -q -c constraints.txt -e ".[demo,dev]" "setuptools>=77"
	touch $@

$(OLDEST_STAMP): pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/pip install -q -c constraints-oldest.txt -e ".[demo,test]" "setuptools>=77"
	touch $@

$(BROWSER_STAMP): $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install -q -c constraints.txt -e ".[demo,test,browser]" "setuptools>=77"
	touch $@

$(PEERS_STAMP): pyproject.toml constraints.txt $(wildcard benchmarks/peers-requirements*.txt)
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install -q -c constraints.txt -e . -r benchmarks/peers-requirements.txt
	$(PEERS)/bin/pip install -q --no-deps -r benchmarks/peers-requirements-no-deps.txt
	touch $@
