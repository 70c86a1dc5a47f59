# Everything a newcomer needs: `make demo` (set up and run the main job), `make test` (set up and run every check).
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
RECIPE ?= recipes/digits.toml

.PHONY: help demo test lint clean
.DEFAULT_GOAL := help

help:  ## what each target does
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## */  make \1\t/' | expand -t 16

demo: $(VENV)/.installed  ## make .venv, install edgecnn and run recipes/digits.toml
	$(BIN)/edgecnn run $(RECIPE)

test: lint  ## make .venv if needed, install the development extras, run every check and test
	$(BIN)/python -m pytest -n auto --dist loadscope

lint: $(VENV)/.installed-dev  ## ruff, mypy strict, import-linter
	$(BIN)/python scripts/check.py

clean:  ## remove what the targets above made
	rm -rf $(VENV) work .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; ok = (3, 10) <= sys.version_info < (3, 14); \
	  sys.exit(0 if ok else "edgecnn needs Python 3.10 to 3.13, this is " + sys.version.split()[0] + ": make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@ $(VENV)/.installed
