# Needs python3.11 (or newer) and make. Every target builds what it needs in .venv first.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
FILES := open_mythos tests $(wildcard examples benchmarks training example.py website)

# The public open-mythos 0.5.0 is a peer for tests only; it lives outside this repository.
PEER_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/open-mythos-peer
PEER_VERSION := 0.5.0
PEER := $(PEER_CACHE)/open-mythos-$(PEER_VERSION)

# Tests start some hundred processes, which should not each compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo depth test coverage test-slow test-browser check lint types imports format docs docs-serve clean peer

help:  ## list the targets
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/.torch: constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt torch
	@touch $@

$(VENV)/.run: pyproject.toml constraints.txt $(VENV)/.torch
	$(PIP) install -c constraints.txt -e ".[plots]"
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt $(VENV)/.torch
	$(PIP) install -c constraints.txt -e ".[dev]"
	@touch $(VENV)/.run $@

$(VENV)/.docs: pyproject.toml constraints.txt $(VENV)/.torch
	$(PIP) install -c constraints.txt -e ".[docs]"
	@touch $@

setup: $(VENV)/.run  ## install the package into .venv

depth: setup  ## docs/depth.md's story, small: tasks and text on two cores, figures and page into runs/depth
	$(BIN)/python benchmarks/depth_text.py --size cpu --arms one-pass,untied,om05-fixed,om05-random,mythos,fixed \
	  --also 'fixed=mythos:depth.kind=fixed' --steps 280 --jobs 2 --threads 1 --out runs/depth/text --results runs/depth/depth-text.json
	$(BIN)/open-mythos depth-suite --size cpu --tasks deep-quick --designs mythos,untied --seeds 1 --jobs 2 --out runs/depth/tasks
	cp runs/depth/tasks/suite.json runs/depth/depth-tasks.json
	cp docs/depth.md runs/depth/depth.md
	$(BIN)/python benchmarks/depth_figures.py --results runs/depth --images runs/depth/images --page runs/depth/depth.md

demo: setup  ## train, sweep and report, in minutes, on two cores and without a network
	$(BIN)/open-mythos demo $(ARGS)

peer: $(VENV)/.dev
	@if [ -f "$(PEER)/open_mythos/main.py" ]; then exit 0; fi; \
	mkdir -p "$(PEER_CACHE)" \
	&& $(PIP) download --quiet --retries 1 --no-deps --only-binary=:all: \
	  --dest "$(PEER_CACHE)" open-mythos==$(PEER_VERSION) \
	&& rm -rf "$(PEER).part" \
	&& $(BIN)/python -m zipfile -e "$(PEER_CACHE)"/open_mythos-$(PEER_VERSION)-*.whl "$(PEER).part" \
	&& rm -rf "$(PEER)" && mv "$(PEER).part" "$(PEER)" \
	|| echo "open-mythos $(PEER_VERSION) could not be fetched: the parity tests against it will be skipped"

test: $(VENV)/.dev peer  ## every law; those that take many processes or a compiler apart
	@peer=""; if [ -f "$(PEER)/open_mythos/main.py" ]; then peer="$(PEER)"; fi; \
	OPEN_MYTHOS_PEER="$$peer" OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow" $(ARGS)

coverage:  ## the same with the share of lines that they reach, which must be 90 %
	@$(MAKE) --no-print-directory test ARGS="--cov=open_mythos --cov-report=term --cov-fail-under=90 $(ARGS)"

test-slow: $(VENV)/.dev  ## the rest: whole runs over ranks, experts dealt out, compiled graphs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m slow $(ARGS)

test-browser: $(VENV)/.dev  ## the server's page in Debian's chromium, without a window
	$(PIP) install -c constraints.txt -e ".[browser]"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/serve/test_browser.py $(ARGS)

check: lint types imports  ## lint, types and import contracts

lint: $(VENV)/.dev  ## ruff, without changing a file
	$(BIN)/ruff format --check $(FILES)
	$(BIN)/ruff check $(FILES)

types: $(VENV)/.dev  ## mypy, strict
	$(BIN)/mypy

imports: $(VENV)/.dev  ## the layer contracts
	$(BIN)/lint-imports

format: $(VENV)/.dev  ## ruff, changing files
	$(BIN)/ruff check --fix $(FILES)
	$(BIN)/ruff format $(FILES)

# The theme's notice of its successor is about the tool, not about these pages.
docs docs-serve: export NO_MKDOCS_2_WARNING = 1

docs: $(VENV)/.docs  ## the documentation site into build/site; a warning or a dead link is an error
	$(BIN)/python -m mkdocs build --strict --quiet
	$(BIN)/python -m website.check build/site

docs-serve: $(VENV)/.docs  ## the site on http://127.0.0.1:8001, made anew when a page changes
	$(BIN)/python -m mkdocs serve --strict --dev-addr 127.0.0.1:8001

clean:  ## remove what the targets made, runs/ excepted
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis \
	  .import_linter_cache .coverage .coverage.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
