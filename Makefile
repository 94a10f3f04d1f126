PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
ELSEWHERE := .venv-$(notdir $(PYTHON))
CORE := tests/criterion/test_weighted_loss.py tests/weighting tests/conflict tests/penalties tests/gradients --ignore-glob="*_command_line.py"

.PHONY: help train test test-lowest test-python test-core test-cluster docs links

help:  ## what there is to make
	@grep -E "^[a-z-]+:.*##" Makefile | sed -E "s/:.*## /\t/" | expand -t 16

train: .venv-train/installed  ## make train ARGS="loss=alpha alpha=0.3"
	.venv-train/bin/python scripts/train.py $(ARGS)

test: .venv/installed  ## linter, formatter, type checker, tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto

test-cluster: .venv/installed  ## sweeps on SLURM, PostgreSQL and Ray on this machine; as root on Debian it installs what they need
	sh tests/cluster/install.sh $(BIN)/python
	LOSSBALANCE_CLUSTER=1 OMP_NUM_THREADS=1 $(BIN)/pytest -n0 -rs tests/cluster

docs: .venv/installed  ## the site, in docs/_build/html
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

test-lowest: .venv-lowest/installed  ## the tests, with the lowest versions that pyproject.toml admits
	OMP_NUM_THREADS=1 .venv-lowest/bin/pytest -n auto

test-python: $(ELSEWHERE)/installed  ## the tests, with another Python: make test-python PYTHON=python3.13
	OMP_NUM_THREADS=1 $(ELSEWHERE)/bin/pytest -n auto

test-core:  ## the tests of the core, without any extra
	rm -rf .venv-core
	$(PYTHON) -m venv .venv-core
	.venv-core/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e . pytest torchjd numpy
	OMP_NUM_THREADS=1 .venv-core/bin/pytest -q $(CORE)

.venv-lowest/installed: pyproject.toml setup.py
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/pip install --quiet --disable-pip-version-check uv
	.venv-lowest/bin/uv pip install --quiet --python .venv-lowest/bin/python --resolution lowest-direct -e ".[dev]"
	touch $@

links: .venv/installed  ## the links of the site, which needs a network
	$(BIN)/python -m sphinx -q -b linkcheck docs docs/_build/links

$(ELSEWHERE)/installed: pyproject.toml setup.py
	$(PYTHON) -m venv $(ELSEWHERE)
	$(ELSEWHERE)/bin/pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@

.venv-train/installed: pyproject.toml setup.py constraints.txt
	@echo "Installing what training needs into .venv-train, once: about a minute, longer if torch is downloaded."
	@echo "Without a GPU, a smaller torch: make train PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu"
	$(PYTHON) -m venv .venv-train
	.venv-train/bin/pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e ".[train]"
	touch $@

.venv/installed: pyproject.toml setup.py constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@
