# `make demo` and `make test` set up everything themselves, inside .venv; a second call installs nothing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INPUTS := pyproject.toml constraints.txt
ADAPTERS := .venv-adapters
OLDEST := .venv-oldest

# One list of pins for the packages (old and new pip) and for the build of this one.
PIP := PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt \
	PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --quiet

.PHONY: demo test test-adapters test-oldest test-cuda docs format benchmarks benchmarks-quick clean
.DEFAULT_GOAL := demo

# One thread: the models are small, and threads that wait for each other are slow on a busy machine.
demo: export OMP_NUM_THREADS := 1
demo: $(VENV)/.torch
	$(BIN)/collapse forecast digits --latents 16 --eta-dec 0.3
	rm -rf runs/demo
	$(BIN)/collapse train digits --latents 16 --eta-dec 0.3 --beta 1,2,4 \
		--architecture linear --exact --out runs/demo

# One thread per process: the two test workers already fill a small machine.
test: export OMP_NUM_THREADS := 1
test: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict
	$(BIN)/lint-imports
	$(BIN)/pytest -n 2 -rs

# The libraries that the adapters serve have an environment of their own: `make test` is without them.
test-adapters: export OMP_NUM_THREADS := 1
test-adapters: $(ADAPTERS)/.installed
	$(ADAPTERS)/bin/python -m pytest tests/adapters src/posterior_collapse/adapters \
		tests/test_processors.py -k 'not README'

# Old releases warn of what newer ones removed, so that warnings are no errors here, and print
# examples otherwise. CI is without it: that torch's wheel is of 2 GB.
test-oldest: export OMP_NUM_THREADS := 1
test-oldest: $(OLDEST)/.installed
	$(OLDEST)/bin/python -m pytest -n 2 -o filterwarnings=default \
		--ignore tests/test_readme.py -k 'not processor'

# Needs a GPU, and a torch that was built for it; in a process of its own, as it looks at the device.
test-cuda: $(VENV)/.dev
	$(BIN)/pytest tests/test_cuda.py

# Into `site`, which can be read from the folder; the tests build it too, elsewhere.
docs: export OMP_NUM_THREADS := 1
docs: export NO_MKDOCS_2_WARNING := 1
docs: $(VENV)/.dev
	$(BIN)/mkdocs build --strict

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

NOT_ALONE := $(addprefix benchmarks/,gpu.py measured.py quick.py)
benchmarks: $(VENV)/.dev
	set -e; for script in $(filter-out $(NOT_ALONE),$(wildcard benchmarks/*.py)); do \
		$(BIN)/python $$script; done

# Beside the figures that were kept; AGAINST= is beside none.
AGAINST := benchmarks/results/quick.json
benchmarks-quick: $(VENV)/.dev
	$(BIN)/python benchmarks/quick.py $(if $(AGAINST),--against $(AGAINST))

clean:
	rm -rf $(VENV) $(ADAPTERS) $(OLDEST) build dist site .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis runs/demo src/*.egg-info
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.torch: $(INPUTS) | $(BIN)/python
	$(PIP) -e '.[torch]'
	touch $@

$(VENV)/.dev: $(INPUTS) | $(BIN)/python
	$(PIP) -e '.[dev]'
	touch $@ $(VENV)/.torch

$(ADAPTERS)/.installed: $(INPUTS) constraints-adapters.txt
	$(PYTHON) -m venv $(ADAPTERS)
	PIP_CONSTRAINT="constraints.txt constraints-adapters.txt" PIP_BUILD_CONSTRAINT=constraints.txt \
		PIP_DISABLE_PIP_VERSION_CHECK=1 $(ADAPTERS)/bin/python -m pip install --quiet \
		-e '.[adapters]' jax keras pytest hypothesis
	touch $@

$(OLDEST)/.installed: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	PIP_CONSTRAINT=constraints-oldest.txt PIP_DISABLE_PIP_VERSION_CHECK=1 \
		$(OLDEST)/bin/python -m pip install --quiet -e '.[dev]'
	touch $@
