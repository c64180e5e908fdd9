# Everything runs from .venv, which the first target that needs it creates.

PYTHON    ?= python3
# One exact version: with a range pip may prefer a CUDA build of several gigabytes.
TORCH     ?= torch==2.13.0
# Worker processes of the tests.
JOBS      ?= 2
# 1: Triton's interpreter; 0: compiled kernels; auto: compiled where there is a CUDA device.
INTERPRET ?= auto
# More arguments for pytest, for example PYTEST_ARGS="-k pool -x".
PYTEST_ARGS ?=

VENV       := .venv
PY         := $(VENV)/bin/python
PIP        := $(PY) -m pip install -qq --disable-pip-version-check
STAMP      := $(VENV)/.installed
LINT_STAMP := $(VENV)/.installed-lint

OTHER_TRITON := build/triton-$(TRITON)

# Sets or unsets TRITON_INTERPRET for the rest of a recipe's shell.
# Triton reads it while kernels are being defined, hence before Python starts.
define choose_mode
interpret="$(INTERPRET)"; \
if [ "$$interpret" = auto ]; then \
	interpret=$$($(PY) -c 'import torch; print(0 if torch.cuda.is_available() else 1)') || exit 1; \
fi; \
case "$$interpret" in \
	1) export TRITON_INTERPRET=1; echo "Kernels: interpreted, on the CPU." ;; \
	0) unset TRITON_INTERPRET; echo "Kernels: compiled, on the CUDA device." ;; \
	*) echo "INTERPRET is '$$interpret'; expected auto, 0 or 1." >&2; exit 2 ;; \
esac
endef

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv demo test test-deep test-triton lint format bench-cpu clean

help: ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' Makefile

venv: $(STAMP) ## Create .venv and install the library into it (the other targets do so when needed)

demo: $(STAMP) ## Run the demonstration
	@$(PY) -m tritonconv demo

test: $(STAMP) ## Run the tests: compiled where there is a CUDA device, else interpreted
	@$(choose_mode); \
	$(PY) -m pytest -n $(JOBS) --dist worksteal tests $(PYTEST_ARGS)

test-deep: $(STAMP) ## Run the tests with many more random problems, and the slow ones
	@$(choose_mode); \
	TRITONCONV_PROFILE=deep $(PY) -m pytest -n $(JOBS) --dist worksteal tests $(PYTEST_ARGS)

# PYTHONPATH comes before .venv's packages, so .venv keeps its own Triton.
test-triton: $(STAMP) ## Run the tests under another Triton: make test-triton TRITON=3.6.0
	@if [ -z "$(TRITON)" ]; then \
		echo "Which Triton? For example: make test-triton TRITON=3.6.0" >&2; exit 2; \
	fi
	@$(MAKE) -s $(OTHER_TRITON)/.installed
	@export PYTHONPATH="$(CURDIR)/$(OTHER_TRITON):$(CURDIR)"; \
	$(PY) -c 'import sys, triton; v = triton.__version__; print("Triton:", v); \
		sys.exit(0 if v == "$(TRITON)" else "Asked for Triton $(TRITON), imported " + v)' || exit 1; \
	$(choose_mode); \
	$(PY) -m pytest -n $(JOBS) --dist worksteal tests $(PYTEST_ARGS)

lint: $(LINT_STAMP) ## Check style, formatting and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pyright

format: $(LINT_STAMP) ## Format the code and apply ruff's safe fixes
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

bench-cpu: $(STAMP) ## Run the benchmarks that need no GPU
	@$(PY) -m benchmarks.cpu
	@$(PY) -m benchmarks.overhead

clean: ## Remove what was built, cached or drawn; .venv stays
	rm -rf build dist out *.egg-info .pytest_cache .hypothesis .ruff_cache
	find . -path ./$(VENV) -prune -o -type d -name __pycache__ -exec rm -rf {} +

# torch comes first and alone, so that the library's own `torch>=` finds it there and fetches no other.
$(STAMP): pyproject.toml
	@test -x $(PY) || { \
		$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed (PYTHON=...); this is " + sys.version)' \
		&& $(PYTHON) -m venv $(VENV); }
	@echo "Installing into $(VENV); the first time takes a minute or more."
	@$(PIP) "$(TORCH)"
	@$(PIP) -e ".[test,demo]"
	@touch $@

$(LINT_STAMP): $(STAMP)
	@echo "Installing ruff and pyright into $(VENV)."
	@$(PIP) -e ".[lint]"
	@touch $@

# Triton 3.6's interpreter calls int() on one-element arrays, which NumPy 2.4 refuses.
build/triton-%/.installed: $(STAMP)
	@echo "Installing Triton $* into $(@D)."
	@rm -rf $(@D)
	@case "$*" in \
		3.[0-6]|3.[0-6].*) numpy="numpy<2.4" ;; \
		*) numpy= ;; \
	esac; \
	$(PIP) --target $(@D) --no-deps "triton==$*" $${numpy:+"$$numpy"}
	@touch $@
