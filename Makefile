PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: help train test test-lowest docs

help:  ## what there is to make
	@grep -E "^[a-z-]+:.*##" Makefile | sed -E "s/:.*## /\t/" | expand -t 16

train: .venv/installed  ## make train ARGS="loss=alpha alpha=0.3"
	$(BIN)/python scripts/train.py $(ARGS)

test: .venv/installed  ## linter, formatter, type checker, tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto

docs: .venv/installed  ## the site, in docs/_build/html
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

test-lowest: .venv-lowest/installed  ## the tests, with the lowest versions that pyproject.toml admits
	OMP_NUM_THREADS=1 .venv-lowest/bin/pytest -n auto

.venv-lowest/installed: pyproject.toml setup.py
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/pip install --quiet --disable-pip-version-check uv
	.venv-lowest/bin/uv pip install --quiet --python .venv-lowest/bin/python --resolution lowest-direct -e ".[dev]"
	touch $@

.venv/installed: pyproject.toml setup.py constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@
