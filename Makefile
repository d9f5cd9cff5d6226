# Two commands: `make demo` runs the demonstration, `make test` the tests.
# Each makes the environment it needs in .venv, from the versions in constraints.txt, and starts at once when it is there.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-fast lint bench clean

demo: $(READY)
	$(BIN)/mofo demo --output mofo-demo --jobs 2

# threads that wait for others sleep: several processes at once on few cores lose twentyfold where they spin
test test-fast: export OMP_WAIT_POLICY = passive

test: $(READY)
	$(BIN)/python -m pytest

test-fast: $(READY)
	$(BIN)/python -m pytest -m "not slow"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python benchmarks/step_time.py

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[train,dev]"
	touch $(READY)

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
