# Everything runs in an environment of its own; VENV=DIR puts it elsewhere.
VENV ?= .venv
PYTHON ?= python3
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check
export PYTHONPATH := $(CURDIR)

.PHONY: reproduce faults mutants help setup setup-dense quickstart quickstart-detection quickstart-segmentation theory test test-slow check tables bench bench-rivals bench-gpu clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 28

# The stamps hold the hash of what was installed, so an edited requirements file installs again.
CORE_STAMP := $(VENV)/.core-$(shell cat requirements.txt | sha256sum | cut -c1-16)
DEV_STAMP := $(VENV)/.dev-$(shell cat requirements.txt requirements-dev.txt | sha256sum | cut -c1-16)
DENSE_STAMP := $(VENV)/.dense-$(shell cat requirements.txt requirements-dense.txt | sha256sum | cut -c1-16)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(CORE_STAMP): | $(VENV)/bin/python
	@echo "Installing requirements.txt into $(VENV) (about 5 GB, a few minutes the first time)"
	$(PIP) -r requirements.txt
	@touch $@

$(DEV_STAMP): | $(CORE_STAMP)
	$(PIP) -r requirements-dev.txt
	@touch $@

$(DENSE_STAMP): | $(CORE_STAMP)
	$(PY) tools/install_dense.py
	@rm -f $(VENV)/.dense-* && touch $@

setup: $(CORE_STAMP)  ## build the environment

setup-dense: $(DENSE_STAMP)  ## add what detection and segmentation need (compiles mmcv, 7 minutes the first time)

quickstart: $(CORE_STAMP)  ## train the four operators on MNIST-5k: table and figure
	$(PY) tools/quickstart.py

quickstart-detection quickstart-segmentation: quickstart-%: $(DENSE_STAMP)
	$(PY) tools/quickstart_dense.py $*

quickstart-detection:  ## a nano detector on scenes of real digits: AP and pictures
quickstart-segmentation:  ## a nano segmentor on the same scenes: mIoU and pictures

faults: $(CORE_STAMP)  ## break small runs on purpose, count what comes of it (a quarter of an hour)
	$(PY) -m tests.faults

mutants: $(DEV_STAMP)  ## write small faults into the code, count which the tests notice (SAMPLE=N of each module; all take hours)
	$(PY) -m tests.mutants $(if $(SAMPLE),--sample $(SAMPLE))

theory: $(CORE_STAMP)  ## the paper's theory, measured: runs/theory/index.html
	$(PY) tools/theory_page.py

test: $(DEV_STAMP) $(DENSE_STAMP)  ## the whole default suite
	OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --dist worksteal

test-slow: $(DEV_STAMP) $(DENSE_STAMP)  ## the tests that take minutes each
	$(PY) -m pytest -m slow

check: $(DEV_STAMP)  ## lint, format and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	OMP_NUM_THREADS=1 $(PY) tools/make_tables.py --check

tables: $(CORE_STAMP)  ## the paper's tables beside ours, with the command that trains each row
	$(PY) tools/make_tables.py

reproduce: $(CORE_STAMP)  ## evaluate every released weight whose data are in DATA=DIR, beside the paper (ARGS="--images 1000": a first look)
	$(PY) tools/reproduce.py $(DATA) $(ARGS)

bench: $(CORE_STAMP)  ## speed and memory beside timm's Swin-T on this CPU: table, JSON and figure in benchmarks/
	$(PY) benchmarks/speed.py --suite standard

bench-rivals: $(DEV_STAMP)  ## DW-Conv-T beside Swin-T and ConvNeXt-T, eager, compiled, in onnxruntime and OpenVINO (a quarter of an hour)
	$(PY) benchmarks/speed.py --suite rivals --minutes 30

bench-gpu: $(CORE_STAMP)  ## the same on a GPU, compiled, with the operators by themselves (at most eight minutes)
	$(PY) benchmarks/speed.py --suite gpu --minutes 7

clean:  ## remove caches and build products (not the environment, not runs/)
	rm -rf build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path "./$(VENV)/*" -type d -prune -exec rm -rf {} +
