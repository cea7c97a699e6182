# Everything a fresh machine needs is done by these targets; nothing has to be installed by hand but Python 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint format quality bench clean

demo: .venv/installed  ## install, then run the main job on real input
	$(BIN)/vecmeta demo

test: .venv/installed-dev  ## install, then run all tests
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m "not quality"

lint: .venv/installed-dev  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

quality: .venv/installed-dev  ## slow runs on real data sets; skipped where the data are absent
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m quality -s

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "vecmeta needs Python 3.11 or newer; this is " + sys.version.split()[0] + " (choose another one: make PYTHON=python3.12 …)")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@
