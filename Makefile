# One verb per task; each is one command, and tools/dev.py holds what it does.
#   make PYTHON=python3.12 test     with another interpreter (needs a fresh .venv: make clean)

PYTHON ?= python3
DEV = $(PYTHON) tools/dev.py

.DEFAULT_GOAL := help
.PHONY: help lib run build test check coverage fmt bench wheel check-wheel check-sdist clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /make \1 /p' $(MAKEFILE_LIST) | awk '{v=$$2; $$1=$$2=""; printf "make %-11s %s\n", v, $$0}'

lib: ## Build the Go library into src/tailnet
	@$(DEV) lib

run: ## Build everything and run the demo: two nodes on an offline tailnet
	@$(DEV) run

build: ## Build the library and the extension, install the package (editable) into .venv
	@$(DEV) build

test: ## Build, then run every test and every check
	@$(DEV) test

check: ## Only the checks: ruff, mypy, pyright, gofmt, go vet, staticcheck
	@$(DEV) check

coverage: ## Run every test, and print which statements of Python and Go none reaches
	@$(DEV) coverage

fmt: ## Format Python and Go
	@$(DEV) fmt

bench: ## Run the benchmarks
	@$(DEV) bench

wheel: ## Build the wheels for the package index into dist, with zig
	@$(DEV) wheel

check-wheel: ## Install the wheels of dist where nothing else is, and use them
	@$(DEV) check-wheel

check-sdist: ## Go every way from the source distribution to an installed package
	@$(DEV) check-sdist

clean: ## Remove everything the build made, .venv too
	@$(DEV) clean
