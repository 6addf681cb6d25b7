# One command each for what one does here. `make help` lists them; ARGS is passed on.
#   make demo ARGS="--json out.json --seed 3"

SHELL := /bin/bash
VENV := .venv
# The name carries the directory: a tree that was moved or copied is set up anew, because its scripts hold the old path.
STAMP := $(VENV)/.set-up-$(shell pwd | cksum | cut -d ' ' -f 1)
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup tools tools-vllm demo up test test-long lint bench lock lock-vllm clean

help:  ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

setup: $(STAMP)  ## create .venv with the exact versions of requirements.lock

$(STAMP): requirements.lock pyproject.toml scripts/setup scripts/uv-pin.txt
	@scripts/setup
	@touch $@

tools: .tools/cometbft  ## install CometBFT into .tools/ (networks of several validators, and their tests)

.tools/cometbft: scripts/tools
	@scripts/tools
	@touch $@

.tools/node/built-from: tools/node/package-lock.json tools/node/runtime.lock scripts/tools_node
	@scripts/tools_node

.tools/vllm/built-from: tools/vllm.lock scripts/tools_vllm
	@scripts/tools_vllm

tools-vllm: .tools/vllm/built-from  ## install vLLM for processors into .tools/vllm (6 GB; nodes with backend = "vllm", and their test)

demo: $(STAMP)  ## play the whole main job on this machine: race, answers, training, settlement
	@$(VENV)/bin/paceline demo $(ARGS)

up: $(STAMP)  ## run a network until Ctrl-C: API and dashboard on http://127.0.0.1:8000
	@$(VENV)/bin/paceline up $(ARGS)

test: lint .tools/cometbft .tools/node/built-from  ## every check and every test but the long ones
	@$(VENV)/bin/python -m pytest -m "not long" --durations=15 $(ARGS)

test-long: $(STAMP) .tools/cometbft .tools/vllm/built-from  ## the tests marked `long`
	@scripts/test_long $(ARGS)

lint: $(STAMP)  ## ruff, mypy, import contracts, determinism and sizes (what pre-commit and CI call too)
	@scripts/check

bench: $(STAMP) .tools/cometbft .tools/vllm/built-from  ## measure the figures of bench/README.md on this machine
	@$(VENV)/bin/python bench/run.py $(ARGS)

lock:  ## resolve requirements.lock anew (ARGS=--upgrade takes newer versions)
	@scripts/lock $(ARGS)

lock-vllm:  ## resolve tools/vllm.lock anew (ARGS=--upgrade takes newer versions)
	@scripts/tools_vllm --lock $(ARGS)

clean:  ## remove everything that make created
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
