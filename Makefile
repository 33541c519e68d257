# Every target works in a fresh clone: the first one sets .venv up.
PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := .venv/bin
SOURCES := $(shell git ls-files csrc) CMakeLists.txt pyproject.toml

.PHONY: train test lint bench
train: .venv/ready
	$(BIN)/longrnn train digits --model sru --model lstm --minutes 2

test: lint
	$(BIN)/pytest -q -n 2

lint: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: .venv/ready
	$(BIN)/longrnn bench

# torch first and pinned: left to itself pip may fetch gigabytes of CUDA libraries.
.venv/ready: $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet "$(TORCH)"
	$(BIN)/pip install --quiet --editable ".[train,dev]"
	touch $@
