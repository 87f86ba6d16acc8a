# Every target sets up .venv by itself: a fresh machine needs Python 3.11 or later and make.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
SITE   := $(VENV)/.site

# Processes with a thread each: with two threads in one, most tests wait for the second to come.
JOBS   ?= 2
PYTEST  = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal
CPUS    = $$($(BIN)/python -c 'from spectral.kernels import cpu; print(*cpu.at_hand())')

# Interpreters that the wheel is tried with.
PYTHONS ?= $(PYTHON)

# What needs a GPU, which few processes share.
ON_GPU  = tests/test_cuda.py tests/jacobians/program/test_cuda_graphs.py tests/kernels/test_device.py

WAIT    = pip installs torch and the rest, once: minutes, 0.2 GB with torch's CPU build and several with CUDA's

# All but what tools keep beside sources.
SPELLED = README.md CHANGELOG.md CITATION.cff docs examples spectral denoisers benchmarks tests tools

.DEFAULT_GOAL := eigs
.PHONY: help eigs test test-slow test-cpus test-gpu test-as-gpu test-oldest test-newest test-wheel fuzz check bench docs site linkcheck clean

help:  ## what there is to make
	@sed -n 's/^\([a-z][a-z -]*\):.*##  *\(.*\)/  \1:\2/p' $(MAKEFILE_LIST) | sed 's/:/\n        /'

eigs: $(STAMP)  ## certified top eigenpairs of the shipped denoiser's Jacobian on the shipped photograph
	$(BIN)/spectral eigs --denoiser photos --crop 60 180 128 --sigma 0.15 -k 20 --out out

test: $(STAMP)  ## the test suite, on two cores
	$(PYTEST)

test-slow: $(STAMP)  ## the long proofs too
	$(PYTEST) -m "slow or not slow"

test-cpus: $(STAMP)  ## what compiled kernels are part of, with vectors of each width this CPU has, and without
	for level in $(CPUS); do \
		SPECTRAL_CPU=$$level $(PYTEST) tests/kernels tests/jacobians tests/test_waits.py || exit 1; done

test-oldest test-newest: test-%:  ## the test suite with other releases of what it stands on, in .venv-*
	$(PYTHON) -m venv .venv-$*
	@echo "$(WAIT)"
	.venv-$*/bin/pip install -q -c constraints-$*.txt -e ".[test]"
	$(MAKE) test BIN=.venv-$*/bin STAMP=

test-wheel: $(STAMP)  ## the wheel alone, in an empty environment; PYTHONS="python3.12 python3.13": with these
	$(BIN)/python tools/wheel_test.py --python $(PYTHONS)

test-gpu: $(STAMP)  ## what needs a GPU, on one, with torch's CUDA build and CuPy; a run that is cut has told of each failure
	$(PYTEST) -n 4 -vv -rfE --tb=short $(ON_GPU)

test-as-gpu: $(STAMP)  ## most of the same, on a stand-in for a GPU that computes on the CPU; needs c++
	$(PYTEST) -p tests.helpers.gpu -k "not training and not replayed_step and not memory_that and not tensor_float" $(ON_GPU)

fuzz: $(STAMP)  ## adversarial spectra against LAPACK, 20 minutes of them
	$(BIN)/python tests/fuzz.py --minutes 20

check: $(STAMP)  ## lint, format, types, the order of floors, spelling, links, workflows and citation by their schemas
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell $(SPELLED)
	$(BIN)/python tools/links.py
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema custom.github-workflows-require-timeout .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff

bench: $(STAMP)  ## the solvers and SciPy's, timed
	$(BIN)/python -m pytest benchmarks --benchmark-only -o addopts="--import-mode=importlib"

docs: $(STAMP)  ## the tables and figures of README and docs, measured anew: hours
	test -f runs/unet/weights.safetensors || $(BIN)/denoisers train unet
	$(BIN)/spectral eigs --denoiser photos --crop 60 180 128 --sigma 0.15 -k 20 --out docs/figures
	$(BIN)/spectral eigs --denoiser photos --crop 60 180 64 --part full --left -k 12 --out docs/figures
	for page in peers sketch half whole many survey scale solvers nonsymmetric quality operations training sampling; do \
		$(BIN)/python -m benchmarks.$$page --write || exit 1; done
	$(BIN)/python -m benchmarks.products --quick --write
	$(BIN)/python -m benchmarks.estimators all
	$(BIN)/python -m benchmarks.paper --write
	for part in oracle-slopes mterm regularity speed; do $(BIN)/python -m benchmarks.theory $$part || exit 1; done

site: $(SITE)  ## the documentation as a site, its gallery run anew where it changed, in build/site
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -b html -W --keep-going -q docs build/site
	$(BIN)/python tools/links.py build/site

linkcheck: $(STAMP)  ## whether addresses on the net that README, docs and docstrings name still answer
	$(BIN)/python tools/links.py --outside

$(SITE): $(STAMP)
	@echo "pip installs Sphinx, once"
	$(BIN)/pip install -q -c constraints.txt -e ".[docs]"
	touch $@

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "$(WAIT)"
	$(BIN)/pip install -q -c constraints.txt -e ".[test,check]"
	touch $@

clean:  ## away with .venv and what was built
	rm -rf docs/gallery docs/reference/generated docs/reference/backreferences
	rm -rf $(VENV) $(VENV)-* build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
