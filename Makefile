# `make help` lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help
export PATH := $(CURDIR)/.venv/bin:$(CURDIR)/.cache/bin:$(CURDIR)/.cache/npm/node_modules/.bin:$(PATH)
PYTEST_ARGS ?=
LOCK = -q --universal --generate-hashes --no-annotate --no-header $(if $(UPGRADE),--upgrade)

.PHONY: help demo compose-demo upgrade-demo test images test-docker test-fast test-kernel lint format types contracts docs slither fuzz fuzz-contracts chaos adversaries lock audit scan sbom bench check clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  \033[36m%-12s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## Run a live demo: a dev chain, a contract, three nodes (KEEP=1 leaves it running)
	@scripts/setup demo
	@python -m demo $(if $(KEEP),--keep)

compose-demo: ## Run the demo in containers: start the compose stack, revoke, grant again (KEEP=1 leaves it running)
	@scripts/setup demo
	@scripts/setup-docker
	@python -m scripts.compose_demo $(if $(KEEP),--keep)

upgrade-demo: ## Replace a node's image under traffic, without and with a long-lived interface
	@scripts/setup demo
	@scripts/setup-docker
	@python -m scripts.upgrade_demo

test: ## Run the whole test suite; installs missing programs
	@scripts/setup test
ifeq ($(PYTEST_ARGS),)
	@python -m pytest -m "not docker and not netns" -n 4 --dist worksteal
	@python -m pytest -m "not docker and netns" -n 2 --dist loadfile
else
	@python -m pytest -m "not docker" $(PYTEST_ARGS)
endif

images: ## Build the images, and those of the tests; installs Docker if it is missing
	@scripts/setup test
	@scripts/setup-docker test
	@python -m scripts.stack

test-docker: images ## Build the images and test the compose stacks; installs Docker if it is missing
	@python -m pytest -m docker $(PYTEST_ARGS)

test-fast: ## Run the tests that need neither root nor a dev chain
	@scripts/setup test
	@python -m pytest -m "not anvil and not netns and not docker" $(PYTEST_ARGS)

test-kernel: ## Run the device tests on the kernel's own WireGuard, in a virtual machine
	@scripts/setup test
	@scripts/test-kernel

lint: ## Lint, and check types and layers
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

docs: ## Generate the configuration and log references and the table of events
	@scripts/setup test
	@python -m scripts.generate_docs

slither: ## Search the contracts for known faults
	@scripts/setup test
	@scripts/slither

lock: ## Pin the dependencies again (UPGRADE=1 uses the newest that pyproject.toml allows)
	@scripts/setup test
	@uv pip compile $(LOCK) --extra admin --extra attest pyproject.toml -o requirements.lock
	@uv pip compile $(LOCK) -c requirements.lock pyproject.toml -o requirements-run.lock
	@sed -n 's/^requires = \["\(.*\)"\]/\1/p' pyproject.toml | uv pip compile $(LOCK) - -o requirements-build.lock
	@uv pip compile $(LOCK) --extra admin --extra attest --group dev pyproject.toml -o requirements-dev.lock
	@uv pip compile $(LOCK) --group slither -o requirements-slither.lock

fuzz: ## Pass mutated inputs to each decoder (RUNS=1000000, SEED=1, ONLY="name name")
	@scripts/setup test
	@python -m tests.fuzz.driver --runs $(or $(RUNS),1000000) --seed $(or $(SEED),1) $(patsubst %,--only %,$(ONLY))

fuzz-contracts: ## Compare the registry contract with its model (SEQUENCES=20000, STEPS=25)
	@scripts/setup test
	@python -m tests.contracts --sequences $(or $(SEQUENCES),20000) --steps $(or $(STEPS),25)

chaos: ## Inject random faults into a network, and check its invariants (MINUTES=60, SEED=1, FIRST=round)
	@scripts/setup test
	@python -m tests.chaos --minutes $(or $(MINUTES),60) --seed $(or $(SEED),1) $(if $(FIRST),--first $(FIRST))

adversaries: ## Run seeded adversarial endpoints against the node, in simulated time (RUNS=10000) or live (MINUTES=30)
	@scripts/setup test
	@python -m tests.simulation$(if $(MINUTES),.live --minutes $(MINUTES), --runs $(or $(RUNS),10000) --first $(or $(FIRST),0))

audit: ## Search the locked dependencies for known vulnerabilities
	@scripts/setup test
	@python -m scripts.audit

scan: ## Search the images for unsafe or unneeded files and for outdated Debian packages
	@scripts/setup test
	@scripts/setup-docker
	@python -m scripts.stack
	@python -m scripts.scan_images

sbom: ## Write the bill of materials (CycloneDX) of the images
	@scripts/setup test
	@python -m scripts.audit sbom

check: lint ## Lint; check that generated files are current and that the prose is plain
	@node contracts/build.mjs --check
	@python -m scripts.generate_docs --check
	@python -m scripts.prose

bench: ## Run the benchmarks and print a table (takes some minutes)
	@scripts/setup test
	@python -m benchmarks $(BENCH)

clean: ## Remove everything that was installed or built in this checkout
	rm -rf .venv .cache build dist contracts/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis
