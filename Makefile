# Everything happens in .venv of this checkout. `make demo` and `make test` set it up by themselves.
PYTHON ?= python3
BIN := .venv/bin
OUT ?= demo

.PHONY: demo test test-slow check bench tables clean

demo: .venv/installed
	$(BIN)/viscera demo $(OUT)

test: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto

test-slow: .venv/installed-dev
	$(BIN)/python -m pytest -q -m slow --timeout 1800

check: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

bench: .venv/installed-dev
	$(BIN)/python -m benchmarks.label_maps metrics
	$(BIN)/python -m benchmarks.kernels files
	$(BIN)/python -m benchmarks.kernels training

tables: .venv/installed-dev
	$(BIN)/python benchmarks/tables.py

clean:
	rm -rf .venv

.venv/bin/pip:
	$(PYTHON) -c 'import sys; sys.exit("viscera needs Python 3.11 or newer: make PYTHON=python3.11") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/pip pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	# nnU-Net's networks, for one oracle test; their dependencies (timm, torchvision) would replace torch and are not needed
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps dynamic-network-architectures==0.4.4
	touch $@
