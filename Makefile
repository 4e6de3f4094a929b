# `make demo`, `make test-fast` and `make test` build .venv first if it is not there.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo test-fast test lint format clean

help:
	@echo "make .venv  the environment (two to three minutes)"
	@echo "make demo   pretrain, transfer to Mask R-CNN on 5 splits, print the averaged AP table (about 6 minutes on two cores)"
	@echo "make test-fast  units, executor, objectives, data, tables (about a minute)"
	@echo "make test   the whole test suite (about 10 minutes on two cores)"
	@echo "make lint   ruff; make format lets it fix what it can"
	@echo "make clean  remove the environment, the demo's results and caches"

.venv: setup.py constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 10) <= v <= (3, 12) else \
	  "error: CPython %d.%d; 3.10 to 3.12 is needed: make PYTHON=python3.11 .venv" % v)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --progress-bar on --constraint constraints.txt --editable '.[dev]' || { rm -rf .venv; exit 1; }
	@touch .venv

demo: .venv
	$(BIN)/python tools/demo.py

test-fast: .venv
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder -m "not slow"

test: .venv
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

lint: .venv
	$(BIN)/ruff check .

format: .venv
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv work_dirs/demo data/synthetic *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
