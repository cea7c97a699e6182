# Everything a fresh machine needs is done by these targets; nothing has to be installed by hand but Python 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin
# Processes that test, each a file of tests at a time
WORKERS ?= auto

.PHONY: demo test lint format quality kills bench stack clean

demo: .venv/installed  ## install, then run the main job on real input
	$(BIN)/vecmeta demo

test: .venv/installed-dev .venv/postgres .venv/chromium .venv/axe/axe.min.js  ## install, then run all tests
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not quality and not kills"

stack: .venv/installed-dev .venv/postgres  ## PostgreSQL, Milvus and the service as processes, without containers; until Ctrl-C
	$(BIN)/python -m tests.stack --folder stack

lint: .venv/installed-dev  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

quality: .venv/installed-dev .venv/postgres .venv/chromium .venv/axe/axe.min.js  ## slow runs on real data sets; skipped where the data are absent
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m quality -s

kills: .venv/installed-dev .venv/postgres  ## the service, PostgreSQL and Milvus killed twenty times each, ten versions swapped under load; half an hour
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m kills -s

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

# PostgreSQL's server, for the tests: from the system's packages where that is allowed; elsewhere those tests are skipped, and say so.
.venv/postgres: .venv/installed-dev
	@if ! ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 && ! command -v initdb >/dev/null \
	    && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    export DEBIAN_FRONTEND=noninteractive; apt-get update -qq && apt-get install -y -qq --no-install-recommends postgresql \
	    || echo "PostgreSQL could not be installed: its tests will be skipped"; fi
	touch $@

# A browser for the tests of the console: likewise.
.venv/chromium: .venv/installed-dev
	@if ! command -v chromium >/dev/null && ! command -v chromium-browser >/dev/null && ! command -v google-chrome >/dev/null \
	    && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    export DEBIAN_FRONTEND=noninteractive; apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium \
	    || echo "Chromium could not be installed: the console's tests in a browser will be skipped"; fi
	touch $@

# axe-core, which finds what bars people from a page (MPL 2.0; for tests alone, so it is fetched and not kept here): likewise.
.venv/axe/axe.min.js: .venv/installed-dev
	@mkdir -p .venv/axe; cd .venv/axe; if command -v npm >/dev/null; then \
	    npm pack --silent axe-core@4.14.1 >/dev/null && tar -xzf axe-core-4.14.1.tgz --strip-components 1 package/axe.min.js \
	    || echo "axe-core could not be fetched: its test will be skipped"; fi
