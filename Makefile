# Everything happens in .venv of this checkout. `make demo` and `make test` set it up by themselves.
PYTHON ?= python3
BIN := .venv/bin
OUT ?= demo
# Lines and branches together, in per cent: what was measured (benchmarks/results/coverage.json), rounded down
GATE := 98
# pip shows its progress; in CI, where nobody watches, only what goes wrong.
PIP := $(BIN)/pip install --disable-pip-version-check $(if $(CI),--quiet) -c constraints.txt

.PHONY: demo test test-slow coverage check docs bench tables fuzz faults mutation clean

demo: .venv/installed
	@echo 'The demo: about ten minutes on two cores; the report is in $(OUT)/.'
	$(BIN)/viscera demo $(OUT)

test: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist worksteal

test-slow: .venv/installed-dev
	$(BIN)/python -m pytest -q -m slow --timeout 1800

# which lines and branches the quick tests reach, in processes of their own too: 10 to 25 minutes on two cores; GATE=0 to see only
coverage: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist worksteal --cov --cov-report=term --cov-report=json:build/coverage.json --cov-fail-under=$(GATE)
	PYTHONPATH=. $(BIN)/python tools/covered.py build/coverage.json

check: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

docs: .venv/installed-dev
	$(BIN)/mkdocs build --strict --quiet
	@echo 'The documentation: open site/index.html; with search: $(BIN)/python -m http.server -d site'

bench: .venv/installed-dev
	$(BIN)/python -m benchmarks.label_maps metrics
	$(BIN)/python -m benchmarks.kernels files
	$(BIN)/python -m benchmarks.kernels training

# 20,000 damaged NIfTI files, 6,000 descriptors, 3,000 other files, 3,000 DICOM ones, times N; ends with 1 if one is neither read nor refused
fuzz: .venv/installed-dev
	PYTHONPATH=tools:tests:. OMP_NUM_THREADS=1 $(BIN)/python -m fuzzing $(or $(N),1)

# every verb with each file operation failing, and killed there: about 25 minutes; benchmarks/results/faults.json
faults: .venv/installed-dev
	PYTHONPATH=. $(BIN)/python tools/fault_sweep.py

# small changes of the core, one at a time, that the tests should notice; MODULES="volume.py labels.py" for some, else hours
mutation: .venv/installed-mutation
	PYTHONPATH=. $(BIN)/python tools/mutation.py $(MODULES)

tables: .venv/installed-dev
	$(BIN)/python benchmarks/tables.py

clean:
	rm -rf .venv

.venv/bin/pip:
	$(PYTHON) -c 'import sys; sys.exit("viscera needs Python 3.11 or newer: make PYTHON=python3.11") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/pip pyproject.toml constraints.txt
	@echo 'Setting up .venv, once. It downloads about 430 MB (several GB more where pip takes torch with CUDA), takes'
	@echo '1.7 GB of disk, and one to five minutes with a fast connection. Nothing is downloaded afterwards.'
	$(PIP) -e '.[train]'
	touch $@

.venv/installed-dev: .venv/installed
	@echo 'Adding the tools for tests, checks and documentation: about 550 MB to download, 1 GB of disk, two to five minutes.'
	$(PIP) -e '.[dev]'
	# nnU-Net's networks, for one oracle test; their dependencies (timm, torchvision) would replace torch and are not needed
	$(PIP) --no-deps dynamic-network-architectures==0.4.4
	touch $@

.venv/installed-mutation: .venv/installed-dev
	$(PIP) -e '.[mutation]'
	touch $@
