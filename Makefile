# `make` alone lists what there is.
.DEFAULT_GOAL := help
SHELL := /bin/bash

PYTHON ?= $(shell command -v python3.11 || command -v python3)
STATE  ?= $(CURDIR)/.qfundus
DATA   ?=
VENV   := .venv
TRITON := .venv-triton
QUEST  := .venv-quest
GOOGLE := .venv-google
BIN    := $(VENV)/bin
UV      = $(BIN)/uv
BUILD  ?= $(shell command -v buildah >/dev/null && echo buildah build || echo docker build)
IMAGE   = qfundus/pipeline:$(shell sed -n 's/__version__ = "\(.*\)"/\1/p' src/qfundus/__init__.py)
SERVER  = $(TRITON)/lib/python3.11/site-packages/pytriton/tritonserver

# uv keeps its cache with the rest of the state unless told otherwise, and looks where pip looks for local wheels.
export QFUNDUS_HOME  := $(STATE)
export UV_CACHE_DIR  ?= $(STATE)/cache/uv
export UV_LINK_MODE  ?= hardlink
# Else each of the many processes of a night would compile what it imports, where Python may not write beside it.
export UV_COMPILE_BYTECODE ?= 1
ifneq ($(PIP_FIND_LINKS),)
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
endif

.PHONY: help setup demo night up down status test test-all test-alone test-fast test-slow test-platform test-products test-cluster test-gpu fuzz bench lint compile image lock clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: $(VENV)/.ready $(TRITON)/.ready $(QUEST)/.ready $(GOOGLE)/.ready ## make the environments from their lock files

$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
	  || { echo "qfundus needs Python 3.11; name it with PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$$(grep '^uv==' requirements/qfundus.lock)"

# The lock leaves out torch's CUDA libraries: it resolves alike with the CPU wheel, and with the wheel that names them.
$(VENV)/.ready: requirements/qfundus.lock requirements/overrides.txt pyproject.toml | $(UV)
	$(UV) pip install --python $(VENV) --override requirements/overrides.txt -r requirements/qfundus.lock
	$(UV) pip install --python $(VENV) --no-deps --editable .
	@touch $@

$(TRITON)/.ready: requirements/triton.lock | $(UV)
	$(UV) venv --quiet --clear --python $(BIN)/python $(TRITON)
	$(UV) pip install --python $(TRITON) -r $<
	@# Triton's Python backend looks for the stub of its Python beside itself.
	install -m 755 $(SERVER)/python_backend_stubs/3.11/triton_python_backend_stub $(SERVER)/backends/python/
	chmod 755 $(SERVER)/bin/tritonserver
	@touch $@

$(QUEST)/.ready $(GOOGLE)/.ready: .venv-%/.ready: requirements/%.lock | $(UV)
	$(UV) venv --quiet --clear --python $(BIN)/python .venv-$*
	$(UV) pip install --python .venv-$* -r $<
	@touch $@

demo: setup ## one night of work, from a folder of photographs to a served grader [DATA=<npz or folder>]
	$(BIN)/qfundus demo $(if $(DATA),--data "$(DATA)")

night: setup ## one more night: ingest what has landed, retrain if an eye is new, promote on approval
	$(BIN)/qfundus night

up: setup ## start the embedded platform
	$(BIN)/qfundus up

down: ## stop the embedded platform
	@if [ -x $(BIN)/qfundus ]; then $(BIN)/qfundus down; fi

status: setup ## what runs where
	$(BIN)/qfundus status

# Small tensors are no work for two threads, and threads that wait would hold the cores of the tests beside them.
TESTS = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -p not_run
ALONE = $(TESTS) -n logical --maxprocesses 2 --dist loadscope tests/components tests/dags tests/object_store tests/pipelines tests/unit

test: setup ## lint and pass every test but full products, side by side; say what did not run
	$(BIN)/python tests/lanes.py test-platform lint,test-alone

test-all: setup ## as `make test`, with every product of strategies, precisions and kills
	$(BIN)/python tests/lanes.py test-platform lint,test-alone,test-products

test-alone: setup ## the tests that need no server but an object store of their own
	$(ALONE) -m "not product"

test-fast: setup ## the quick tests without a platform
	$(ALONE) -m "not slow and not product"

test-slow: setup ## the slow tests without a platform: most train, or start processes of their own
	$(ALONE) -m "slow and not product"

test-platform: setup ## the tests that need the whole platform, which is started once
	$(TESTS) -m platform tests/platform

test-products: setup ## the full products that `make test` leaves out
	$(TESTS) -m product

test-cluster: setup ## train on the Kubernetes that KUBECONFIG names, on whose one node this must run
	$(BIN)/python -m pytest -m cluster tests/cluster

test-gpu: setup ## train, and compute circuits, on the GPU of this machine
	$(BIN)/python -m pytest -m gpu tests/gpu

fuzz: setup ## a hundred thousand damaged DICOM files
	QFUNDUS_FUZZ=100000 $(BIN)/python -m pytest tests/unit/dicom/test_hostile.py

bench: setup ## speed, recall and memory against named peers, as ratios
	$(BIN)/python -m benchmarks.deidentification
	$(BIN)/python -m benchmarks.quantum_step
	$(BIN)/python -m benchmarks.quantum_jobs
	$(BIN)/python -m benchmarks.training

lint: setup ## style, types, import rules and spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports
	git ls-files | xargs $(BIN)/codespell

compile: setup ## compile the pipelines to the YAML that Kubeflow takes
	$(BIN)/python -m pipelines.compile

image: ## build the image of the pipeline's steps and the training's nodes [BUILD="docker build --build-arg BASE=..."]
	$(BUILD) --file Dockerfile --build-arg REVISION="$$(git rev-parse HEAD)" --tag "$(IMAGE)" .

lock: $(UV) ## resolve the lock files anew
	$(UV) pip compile pyproject.toml --extra dev --upgrade-package torch --quiet \
	  --override requirements/overrides.txt --override requirements/cuda-overrides.txt \
	  --custom-compile-command "make lock" --output-file requirements/qfundus.lock
	sed -i 's/+cpu$$//' requirements/qfundus.lock
	$(UV) pip compile pyproject.toml --extra ibm --extra braket --extra azure --constraint requirements/qfundus.lock --quiet \
	  --override requirements/overrides.txt --override requirements/cuda-overrides.txt \
	  --no-annotate --custom-compile-command "make lock" --output-file requirements/image.lock
	sed -i 's/+cpu$$//' requirements/image.lock
	$(UV) pip compile requirements/triton.in --python-version 3.11 --quiet \
	  --custom-compile-command "make lock" --output-file requirements/triton.lock
	$(UV) pip compile requirements/quest.in --python-version 3.11 --quiet \
	  --custom-compile-command "make lock" --output-file requirements/quest.lock
	$(UV) pip compile requirements/google.in --python-version 3.11 --quiet \
	  --custom-compile-command "make lock" --output-file requirements/google.lock

clean: down ## remove the environments and all state
	rm -rf $(VENV) $(TRITON) $(QUEST) $(GOOGLE) $(STATE)
