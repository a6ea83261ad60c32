# Every command that CI, a person and a pre-commit hook run. PYTHON makes the virtual environment, once:
#   make test PYTHON=python3.12
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# The tests start hundreds of processes, each of which would compile edgeq anew.
unexport PYTHONDONTWRITEBYTECODE

comma := ,

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-rest test-arm test-avx2 test-gpu coverage lint check docs site release clean

help:
	@echo 'make demo      every step on the shipped model: export, calibrate, quantize, run, score'
	@echo 'make test      the tests'
	@echo 'make test-arm  the tests on an emulated aarch64 CPU; on x86 Linux with apt, without root'
	@echo 'make test-avx2 the tests of INT8 kernels as on a CPU without VNNI; on x86 Linux with a C compiler'
	@echo 'make test-gpu  what needs an NVIDIA GPU, in one table within eight minutes'
	@echo 'make coverage  which lines of the fast rooms their tests run: fails below the floor in pyproject.toml'
	@echo 'make test-rest the tests that make coverage does not run'
	@echo 'make lint      ruff and mypy'
	@echo 'make check     lint and test (the documents and the wheel are among the tests)'
	@echo 'make release   build the archives in dist/, check them, install the wheel into an empty environment'
	@echo 'make docs      rewrite docs/cli.md, docs/results.md, docs/operators.md and the tables in README.md and docs/'
	@echo 'make site      the documents as a site in build/site; fails if a link leads nowhere'
	@echo 'make clean     remove the virtual environment, caches and build output'

demo: $(VENV)/.demo
	$(BIN)/edgeq demo

# A test file stays on one worker, so that it prepares its models and images once. Files are handed out in the order of
# tests/conftest.py, the slow ones first; xdist's own order leaves those of few tests, which are the slowest, to the end.
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder -m 'not arm'
test: $(VENV)/.develop
	$(PYTEST)

# Where aarch64 cannot be emulated the tests are skipped by name, and the first line says why.
test-arm: $(VENV)/.develop
	-$(BIN)/python -m tests.arm.emulator
	$(BIN)/python -m pytest -n 2 --dist loadfile -m arm -rs tests/arm tests/devices

# The engines' libraries are copied with a trap in place of CPUID; without a C compiler QEMU is used, and where that cannot
# be had either the tests are skipped by name, and the first line says why.
test-avx2: $(VENV)/.develop
	$(BIN)/python -m tests.x86 -n 2 --dist loadfile -m kernels -rs \
		$$(grep -rl --include='test_*.py' 'mark\.kernels' tests)

# On a machine with a GPU; elsewhere each step is skipped, and the table says why.
test-gpu: $(VENV)/.develop
	$(BIN)/python -m tests.gpu

# The rooms of [tool.coverage.run], by the tests that are theirs.
COVERING := $(addprefix tests/,calibrators inputs quantizers results sensors tasks test_boundary.py test_mutations.py \
	test_resume.py test_schemes.py)
coverage: $(VENV)/.develop
	$(PYTEST) $(COVERING) --cov --cov-report=term

# CI runs each test once: these and those of `coverage`.
test-rest: $(VENV)/.develop
	$(PYTEST) $(addprefix --ignore=,$(COVERING))

lint: $(VENV)/.develop
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test

docs: $(VENV)/.develop
	$(BIN)/python -m docs.cli_reference
	$(BIN)/python -m docs.figures
	$(BIN)/python -m docs.results_reference
	$(BIN)/python -m docs.operators

site: $(VENV)/.develop
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

release: $(VENV)/.develop
	.ci/run release

clean:
	rm -rf $(VENV) dist build .coverage* .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find edgeq tests benchmarks docs -name __pycache__ -prune -exec rm -rf {} +

# uv, if it is installed, knows PyTorch's builds: TORCH=cpu, auto (CUDA only where there is a GPU) or cu130. Where it cannot
# reach them, it installs the package index's own. Both take further indexes from PIP_EXTRA_INDEX_URL; see docs/install.md.
TORCH ?= auto
ifeq ($(shell command -v uv),)
INSTALL = $(BIN)/python -m pip install --quiet --editable '$(1)'
else
UV := UV_EXTRA_INDEX_URL="$${UV_EXTRA_INDEX_URL-$$PIP_EXTRA_INDEX_URL}" uv pip install --quiet --python $(BIN)/python
INSTALL = $(UV) --torch-backend $(TORCH) --editable '$(1)' || { \
	echo "PyTorch's own index cannot be used; taking PyTorch from the package index" >&2; $(UV) --editable '$(1)'; }
endif

# The stamps hold what was installed. Installing for development serves the demo as well; the other way round only what is
# missing is fetched.
$(VENV)/.demo: pyproject.toml | $(VENV)/bin/python
	$(call INSTALL,.[export$(comma)openvino$(comma)report])
	@touch $@

$(VENV)/.develop: pyproject.toml | $(VENV)/bin/python
	$(call INSTALL,.[all$(comma)dev$(comma)rtx])
	@touch $(VENV)/.demo $@

# pip older than 21.3, which early 3.10 releases bundle, cannot install an editable project without setup.py.
$(VENV)/bin/python:
	@'$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo 'edgeq needs Python 3.10 or newer; $(PYTHON) is not. Name another: make test PYTHON=python3.12' >&2; \
		exit 1; }
	@echo 'Setting up $(VENV); the first time fetches PyTorch: a few GB, some minutes'
	'$(PYTHON)' -m venv $(VENV)
	$(BIN)/python -m pip install --quiet 'pip>=21.3'
