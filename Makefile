# make demo: from nothing to a trained, evaluated retriever.   make test: every test that needs no GPU.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
PYTHON := $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done)
LAKE ?= lakes/demo
# the demo's history lives in this checkout's dagster_home; any other lake keeps its own
DAGSTER_HOME ?= $(if $(filter lakes/demo,$(LAKE)),$(CURDIR)/dagster_home,$(abspath $(LAKE))/.dagster)

.PHONY: demo test test-slow ui setup lint clean help

help:
	@echo "make demo   set up, then run the whole graph on the built-in corpus (LAKE=$(LAKE))"
	@echo "make test   set up, then run every test that needs no GPU; test-slow: the long ones"
	@echo "make ui     Dagster UI and daemon on this checkout's dagster_home (LAKE=$(LAKE))"
	@echo "make setup | lint | clean"

demo: setup
	@DAGSTER_HOME=$(DAGSTER_HOME) $(BIN)/mmret run --lake $(LAKE)

test: setup
	@HF_HUB_OFFLINE=1 $(BIN)/python -m pytest

test-slow: setup
	@HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m slow --timeout=3600

ui: setup
	@mkdir -p $(DAGSTER_HOME) && cp -n dagster_home/dagster.yaml $(DAGSTER_HOME)/ 2>/dev/null; \
		DAGSTER_HOME=$(DAGSTER_HOME) MMRET_LAKE=$(abspath $(LAKE)) exec $(BIN)/dagster dev -w workspace.yaml

setup: $(VENV)/.installed

# uv, because it installs the lock in seconds; brought along in the environment where the machine has none
$(VENV)/.installed: pyproject.toml requirements.lock
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed and was not found on the PATH"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@command -v uv >/dev/null || test -x $(BIN)/uv || { $(BIN)/python -m ensurepip -q; $(BIN)/python -m pip install -q uv; }
	@UV=$$(command -v uv || echo $(BIN)/uv); echo "installing into $(VENV) …"; \
		$$UV pip install -q --python $(BIN)/python -r requirements.lock && \
		$$UV pip install -q --python $(BIN)/python --no-deps -e .
	@touch $@

lint: setup
	@$(BIN)/ruff check .

clean:
	rm -rf $(VENV) lakes .pytest_cache .ruff_cache .hypothesis build *.egg-info
	git clean -fdXq dagster_home
