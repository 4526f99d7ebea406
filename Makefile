# make test: everything that CI checks. The environment is made on first use, in $(VENV).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: venv test torture lint format demo gpu completions docs clean

venv: $(READY)

# torch goes first and alone: it is by far the largest, and a failed download is then not mistaken for a conflict.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,fetch]'
	touch $@

test: lint
	$(BIN)/python -m pytest -n auto --dist loadgroup

# Every command killed at every write, raced by four processes; every reader fuzzed. About 40 minutes on two cores.
torture: $(READY)
	PERPCS_TORTURE=1 $(BIN)/python -m pytest -n auto tests/robustness

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

demo: $(READY)
	PATH="$(abspath $(BIN)):$$PATH" bash examples/demo.sh

# On a machine with a CUDA GPU. At most ten minutes.
gpu: $(READY)
	PATH="$(abspath $(BIN)):$$PATH" bash examples/gpu.sh

completions: $(READY)
	$(BIN)/python docs/generate.py
	$(BIN)/perpcs completion bash > completions/perpcs.bash
	$(BIN)/perpcs completion zsh > completions/_perpcs
	$(BIN)/perpcs completion fish > completions/perpcs.fish

docs: $(READY)
	$(BIN)/python docs/generate.py

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis demo-run
	find perpcs_cli tests -name __pycache__ -type d -prune -exec rm -rf {} +
