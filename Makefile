# make demo and make test are all that one needs at first; both set up what they use, inside this folder.
#
#   PYTHON=/path/to/python3.11   another interpreter
#   UV_TORCH_BACKEND=cpu         torch without CUDA libraries, where its index can be reached
#   PIP_INDEX_URL=...            another package index, for pip and uv
#   ARGS="--requests 5000"       arguments of `rillet demo` or of pytest

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3.11 || command -v python3)
UV_VERSION := 0.13.8
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.rillet-setup
BOOTSTRAP := var/bootstrap
# Where it is set, every process that a test starts compiles its libraries anew.
unexport PYTHONDONTWRITEBYTECODE
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif

.PHONY: help demo test unit test-long check fmt docs setup clean

help: ## show this
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 18

demo: setup ## run the whole loop on MovieLens-1M and audit it
	$(BIN)/rillet demo $(ARGS)

# Two at a time: tests with a broker and Flink mostly wait, and each worker has its own. loadfile: what a file's tests
# share is made once; no reordering: tests/conftest.py puts the files that take longest first.
test: setup ## run all tests but the long simulations, those with a real broker and Flink too
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

# One worker more than there are cores: some tests wait for threads, processes and deadlines.
unit: setup ## run the tests without broker, Flink and simulations, in under a minute
	$(BIN)/python -m pytest -n $$(( $$(getconf _NPROCESSORS_ONLN) + 1 )) --dist loadfile -m "not integration and not simulation" --hypothesis-profile quick $(ARGS)

test-long: setup ## run the long simulations (thousands of seeds), and the joiner on a cluster whose processes are killed
	$(BIN)/python -m pytest -m long --timeout 3600 $(ARGS)

fmt: setup ## format, and mend what the linter can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: setup ## lint, formatting, types, and the configuration files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/rillet check-config --config rillet.toml
	$(BIN)/rillet check-config --elsewhere --config deploy/rillet.toml

docs: setup ## write the generated parts of the documents anew
	$(BIN)/python -m docs.reference

setup: $(STAMP) ## install into .venv, with the versions of constraints.txt

# uv installs in seconds what takes pip minutes; it comes from the package index itself.
$(STAMP): pyproject.toml constraints.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null \
		|| { echo "rillet needs Python 3.11 (found: $(PYTHON)): install it, or name it with PYTHON=..." >&2; exit 2; }
	@uv=$$(command -v uv || true); \
	if [[ -z $$uv ]]; then \
		uv=$(BOOTSTRAP)/bin/uv; \
		[[ -x $$uv ]] || { "$(PYTHON)" -m venv $(BOOTSTRAP) && $(BOOTSTRAP)/bin/pip install -q uv==$(UV_VERSION); }; \
	fi; \
	[[ -x $(BIN)/python ]] || "$$uv" venv -q --python "$(PYTHON)" $(VENV); \
	"$$uv" pip install -q --python $(BIN)/python -c constraints.txt -b constraints.txt -e '.[dev]'
	@touch $@

clean: ## remove reports and caches; the environment and the data of services (var/) stay
	rm -rf out .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
