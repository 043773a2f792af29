# make demo · make test · make quality · make format · make coverage · make fuzz · make setup · make bench · make demo-model
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
export HF_HUB_OFFLINE := 1

# A process a core, one thread each: torch's threads wait by spinning, which costs more than it brings on small models.
# What is skipped is named, and why: pages without a Chromium, llama.cpp outside of test-all.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile -rs

.PHONY: demo test test-all quality format coverage fuzz setup bench demo-model clean

demo: setup
	$(BIN)/hgsp run recipes/demo.yaml --output results/demo-$$(date +%Y%m%d-%H%M%S)

test: quality
	$(PYTEST) -m "not slow"

# llama.cpp is built from its source here, which takes a C++ compiler and some minutes, once.
test-all: setup $(VENV)/.llama-cpp
	HGSP_TEST_ALL=1 $(PYTEST)

quality: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# What `make test` runs, line by line, in htmlcov/: it takes longer, so no test asks for it.
coverage: setup
	$(PYTEST) -m "not slow" --cov --cov-report term --cov-report html

# Ten thousand damaged recipes, two thousand damaged directories, sixty kills: an hour. SEED=1 repeats a campaign.
fuzz: setup
	$(BIN)/python -m tests.fuzz $(if $(SEED),--seed $(SEED))

$(VENV)/.llama-cpp: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[llama-cpp]"
	touch $@

# The stamp is newer than the files that say what to install, or the environment is made (again).
setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt $(wildcard plugins/*/pyproject.toml)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[test]" $(patsubst %/pyproject.toml,-e %,$(wildcard plugins/*/pyproject.toml))
	touch $@

bench: setup
	$(BIN)/python benchmarks/sweep.py

demo-model: setup
	$(BIN)/python scripts/make_demo_model.py

clean:
	rm -rf $(VENV) build dist results htmlcov .coverage* .pytest_cache .ruff_cache .mypy_cache
