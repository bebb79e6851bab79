# Two commands work on a fresh machine: `make quickstart` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: quickstart test lint types environment clean

quickstart: environment ## environment, a real sweep of 45 trials, a leaderboard
	$(BIN)/harness run sweep=quickstart
	$(BIN)/harness report

# One thread a process: tests and the trials that they start run beside each other.
test: environment ## every test; needs no GPU and no network
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

lint: environment
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: environment
	$(BIN)/pyright --pythonpath $(BIN)/python

environment: $(STAMP)

# torch first: the constraints name the CPU build's version, and nothing then asks the index for a larger one.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[quant,optim,sweep,test]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) dist .pytest_cache .ruff_cache
