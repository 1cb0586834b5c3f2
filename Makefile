# Everything sets itself up: `make demo`, `make test`. A second run starts at once.
PY := .venv/bin/python
# ROS 2 writes its logs under the home folder unless told otherwise.
export ROS_LOG_DIR ?= $(CURDIR)/.venv/log

.PHONY: help demo test lint clean
help:
	@echo 'make demo   a camera, a sentence, a mask: the real ROS graph, no GPU'
	@echo 'make test   the whole test suite'
	@echo 'make lint   ruff and mypy'
	@echo 'make clean  remove .venv and what the demo and the tools wrote'

demo: .venv/.demo
	$(PY) -m segzero_ros.demo

test: .venv/.test
	$(PY) -m pytest

lint: .venv/.test
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

clean:
	rm -rf .venv demo build install log .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/.demo: requirements/install.sh requirements/core.txt requirements/ros.txt setup.py
	requirements/install.sh core ros
	@touch $@

.venv/.test: .venv/.demo $(addprefix requirements/,models.txt train.txt bag.txt dev.txt)
	requirements/install.sh core ros models train bag dev
	@touch $@
