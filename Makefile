# Two commands do everything on a machine with Python >= 3.11 and make: `make demo` and `make test`.
PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13; do \
  command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# Numeric libraries with one thread each: tests run in parallel processes, and threads that compete are far slower.
export OMP_NUM_THREADS ?= 1
export PIP_CONSTRAINT := constraints.txt

.DEFAULT_GOAL := help
.PHONY: docs outputs site help install demo test test-fast coverage test-avx2 test-all test-browser test-ray kill-campaign test-aarch64 lint format fuzz clean test-openvino kill-tables

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1	/p' Makefile

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "no Python >= 3.11 on PATH: install one or set PYTHON=" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-all: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing everything into $(VENV) (minutes the first time)"
	@$(PIP) -e '.[all,dev]'
	@touch $@ $(VENV)/.installed-adapt

$(VENV)/.installed-adapt: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing what the demo needs into $(VENV) (minutes the first time)"
	@$(PIP) -e '.[adapt,report]'
	@touch $@

$(VENV)/.installed-docs: pyproject.toml constraints.txt | $(BIN)/python
	@$(PIP) mike mkdocs-material
	@touch $@

install: $(VENV)/.installed-all ## create .venv with all extras and the development tools

demo: $(VENV)/.installed-adapt ## adapt a small network to 0.6x of its latency on this machine, in under 3 minutes
	$(BIN)/netadapt-onnx demo -o netadapt-demo --overwrite

lint: $(VENV)/.installed-all ## format check, lint, layers, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/mypy

format: $(VENV)/.installed-all ## mend the format and what lint can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.installed-all ## write the pages, tables and pictures that are made from the program and from results
	$(BIN)/python docs/reference.py
	$(BIN)/python docs/benchmarks.py
	$(BIN)/python docs/pictures/architecture.py

outputs: $(VENV)/.installed-all ## what commands print, in the pages that show it (minutes); OUTPUTS="--measure README.md" measures anew
	$(BIN)/python docs/outputs.py $(OUTPUTS)

site: $(VENV)/.installed-docs ## the documentation site in build/site; a link that leads nowhere fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

# What a change to one module breaks first, under a minute. Left out: training, profiling, search, scaling, reports, the
# public functions and whole programs, and of the rest what takes more than a second.
FAST_TESTS := $(addprefix tests/,common data gating graph surgery integration/test_structure.py)

test-fast: $(VENV)/.installed-all ## the tests of single modules below the search, under a minute
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not slow and not seconds" $(FAST_TESTS)

test: lint ## lint, then all tests
	$(BIN)/python -m pytest -q -n 2 --dist worksteal

coverage: $(VENV)/.installed-all ## the tests once more, with which lines and branches they reach; pages in build/coverage
	$(BIN)/python -m pytest -q -n 2 --dist worksteal --cov --cov-report=term:skip-covered --cov-report=html --cov-report=xml

# Older processors' kernels in torch; onnxruntime chooses its own by itself.
AVX2_TESTS := $(addprefix tests/,training/ops/test_ops.py training/test_kernels.py training/test_trials.py \
  training/test_trainer.py training/test_torch_graph.py training/test_batchnorm.py training/test_half.py \
  training/test_graph_reading.py training/test_activation_cache.py \
  profilers/test_quantize.py surgery/verify/test_quantised.py)

test-avx2: $(VENV)/.installed-all ## training and quantisation with the kernels of a processor without AVX-512
	ONEDNN_MAX_CPU_ISA=AVX2 $(BIN)/python -m pytest -q -n 2 --dist worksteal $(AVX2_TESTS)

test-all: lint ## lint, then all tests, the slow ones too (half an hour)
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m ""

test-browser: $(VENV)/.installed-all ## reports in headless Chromium without a network; installs it where apt-get can
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || apt-get install -y -q chromium chromium-driver \
	  || echo "no chromium: install it and its driver" >&2
	$(BIN)/python -m pytest -q -m slow tests/integration/test_browser.py

test-ray: $(VENV)/.installed-all ## the executors' tests on Ray: a local instance, and a cluster of two nodes that loses one
	NETADAPT_RAY=1 $(BIN)/python -m pytest -q tests/search/executors/test_ray_cluster.py tests/search/executors/test_executors.py tests/search/executors/test_same_result.py -k ray

fuzz: $(VENV)/.installed-all ## 2,000 broken models and documents through the command line (minutes; FUZZ="--first N --count 1" repeats one)
	PYTHONPATH=. $(BIN)/python tests/support/fuzzing.py $(FUZZ)

kill-tables: $(VENV)/.installed-all ## a table's build killed at 10 random moments, then completed
	NETADAPT_KILLS=10 $(BIN)/python -m pytest -q tests/integration/test_profile_kill.py

kill-campaign: $(VENV)/.installed-all ## searches killed at 20 random moments, by every preset and the knapsack, then completed (half an hour)
	NETADAPT_KILLS=20 $(BIN)/python -m pytest -q -s tests/integration/test_adapt_kill.py -k random_moments

test-aarch64: $(VENV)/.installed-all ## the agent under emulation with the real aarch64 wheels (Debian, network, minutes)
	sh tests/support/aarch64.sh build/aarch64 $(abspath $(BIN))/python

test-openvino: $(BIN)/python ## a second execution provider for real, in build/openvino: its package replaces onnxruntime (network, minutes)
	@test -x build/openvino/bin/python || $(PYTHON) -m venv build/openvino
	@build/openvino/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	  onnxruntime-openvino click msgspec numpy onnx onnx-graphsurgeon pytest rich tabulate threadpoolctl
	PYTHONPATH=. build/openvino/bin/python -m pytest -q tests/integration/test_openvino.py

clean: ## remove .venv, caches and the demo's results
	rm -rf $(VENV) netadapt-demo build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find netadapt_onnx tests -name __pycache__ -type d -prune -exec rm -rf {} +
