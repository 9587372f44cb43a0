# `make help` lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help
export PATH := $(CURDIR)/.venv/bin:$(CURDIR)/.cache/bin:$(CURDIR)/.cache/npm/node_modules/.bin:$(PATH)
PYTEST_ARGS ?=
LOCK = -q --universal --generate-hashes --no-annotate --no-header $(if $(UPGRADE),--upgrade)

.PHONY: help demo compose-demo upgrade-demo test test-docker test-fast test-kernel lint format types contracts docs fuzz chaos adversaries lock audit scan sbom bench check clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  \033[36m%-12s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## Show it all, live: a dev chain, a contract, three nodes (KEEP=1 leaves it running)
	@scripts/setup demo
	@python -m demo $(if $(KEEP),--keep)

compose-demo: ## The same in containers: build and start the compose stack, revoke, grant again (KEEP=1 leaves it running)
	@scripts/setup demo
	@scripts/setup-docker
	@python -m scripts.compose_demo $(if $(KEEP),--keep)

upgrade-demo: ## Replace a node's image under traffic, the plain way and with a long-lived interface
	@scripts/setup demo
	@scripts/setup-docker
	@python -m scripts.upgrade_demo

test: ## Run the whole test suite; installs what is missing
	@scripts/setup test
ifeq ($(PYTEST_ARGS),)
	@python -m pytest -m "not docker and not netns" -n 4 --dist worksteal
	@python -m pytest -m "not docker and netns" -n 2 --dist loadfile
else
	@python -m pytest -m "not docker" $(PYTEST_ARGS)
endif

test-docker: ## Build the images and test the compose stacks; installs Docker where it is missing
	@scripts/setup test
	@scripts/setup-docker test
	@python -m scripts.stack
	@python -m pytest -m docker $(PYTEST_ARGS)

test-fast: ## Run the tests that need neither root nor a dev chain
	@scripts/setup test
	@python -m pytest -m "not anvil and not netns and not docker" $(PYTEST_ARGS)

test-kernel: ## Run the device tests on the kernel's own WireGuard, in a virtual machine
	@scripts/setup test
	@scripts/test-kernel

lint: ## Lint, check types and layers
	@scripts/setup test
	@ruff check .
	@ruff format --check .
	@mypy
	@lint-imports --no-logo

format: ## Format the code
	@ruff check --fix -q . ; ruff format .

contracts: ## Compile the registry contract into the package
	@scripts/setup test
	@node contracts/build.mjs

docs: ## Write what is generated of the documentation
	@scripts/setup test
	@python -m scripts.generate_docs

lock: ## Pin the dependencies again (UPGRADE=1 takes the newest that pyproject.toml allows)
	@scripts/setup test
	@uv pip compile $(LOCK) --extra admin --extra attest pyproject.toml -o requirements.lock
	@uv pip compile $(LOCK) -c requirements.lock pyproject.toml -o requirements-run.lock
	@sed -n 's/^requires = \["\(.*\)"\]/\1/p' pyproject.toml | uv pip compile $(LOCK) - -o requirements-build.lock
	@uv pip compile $(LOCK) --extra admin --extra attest --group dev pyproject.toml -o requirements-dev.lock

fuzz: ## Feed mutated inputs to each decoder (RUNS=1000000, SEED=1, ONLY="name name")
	@scripts/setup test
	@python -m tests.fuzz.driver --runs $(or $(RUNS),1000000) --seed $(or $(SEED),1) $(patsubst %,--only %,$(ONLY))

chaos: ## Let faults happen at random to a whole network, and hold it to the invariants (MINUTES=60, SEED=1, FIRST=round)
	@scripts/setup test
	@python -m tests.chaos --minutes $(or $(MINUTES),60) --seed $(or $(SEED),1) $(if $(FIRST),--first $(FIRST))

adversaries: ## Let a seeded adversary play endpoints against the node, in simulated time (RUNS=10000) or live (MINUTES=30)
	@scripts/setup test
	@python -m tests.simulation$(if $(MINUTES),.live --minutes $(MINUTES), --runs $(or $(RUNS),10000) --first $(or $(FIRST),0))

audit: ## Look for known vulnerabilities in the locked dependencies
	@scripts/setup test
	@python -m scripts.audit

scan: ## Look for what has no business in the images, and for packages that Debian has newer
	@scripts/setup test
	@scripts/setup-docker
	@python -m scripts.stack
	@python -m scripts.scan_images

sbom: ## Write the bill of materials (CycloneDX) of what the images have
	@scripts/setup test
	@python -m scripts.audit sbom

check: lint ## Lint, and check that generated files are current and the prose is plain
	@node contracts/build.mjs --check
	@python -m scripts.generate_docs --check
	@python -m scripts.prose

bench: ## Measure; prints a table (takes some minutes)
	@scripts/setup test
	@python -m benchmarks $(BENCH)

clean: ## Remove what was installed and built here
	rm -rf .venv .cache build dist contracts/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis
