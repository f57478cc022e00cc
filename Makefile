# What people type. `make demo` and `make test` do their own set-up; see .ci/setup for what they need and why.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help demo test soak verify fmt lint doc deny package semver bench bench-etcd bench-libraries bench-peers bench-micro setup setup-test setup-bench

# rustup's directory may not be on PATH in an empty environment. Debian's ccache directory, where there is one, holds
# compilers of the usual names that answer from a cache, so that RocksDB is compiled once per machine.
export PATH := $(if $(wildcard /usr/lib/ccache),/usr/lib/ccache:,)$(PATH):$(HOME)/.cargo/bin
export CCACHE_NOHASHDIR := 1

CARGO ?= cargo
# What `make bench` measures: all of it unless said.
BENCH ?=
# Demo, tests and benchmarks share one profile, since RocksDB costs ten minutes of two cores once per profile.
PROFILE := --release
# Cargo resolves features for what it is asked to build: always asking for the same keeps RocksDB from being built twice.
EVERYTHING := --workspace --features raft-core/testing

# What is published, in the order of the edges.
PUBLISHED := -p raft-core -p raft-log-rocks -p raft-net-quic -p raft-kv -p raft-load -p raft-node
# The version that the next one must be compatible with, as a commit or tag of this repository.
SEMVER_BASE ?= $(shell git describe --tags --abbrev=0 2>/dev/null)

help:
	@echo 'make demo      three nodes on this machine; prints their addresses and what to try; Ctrl-C stops them'
	@echo 'make test      all tests'
	@echo 'make soak      the random stages of the safety net, for hours (docs/testing.md)'
	@echo 'make verify    what a change must pass: format, lints, tests, docs, licences and advisories'
	@echo 'make package   the crates as they would be published, each built from its package (minutes)'
	@echo 'make semver    what changed in the public interfaces since SEMVER_BASE (the last tag)'
	@echo 'make bench     ours and others side by side on this machine (more than an hour; less: docs/performance.md)'
	@echo 'make bench-etcd       of it, whole clusters beside etcd'
	@echo 'make bench-libraries  of it, our libraries beside others and beside what they are made of (minutes)'
	@echo 'make bench-micro      single steps of core, codec, log store and lanes, by criterion (a minute)'
	@echo 'make setup     only what the others need: says what is missing, installs it where it may'

setup:
	@.ci/setup build

setup-test:
	@.ci/setup test

setup-bench:
	@.ci/setup bench

demo: setup
	$(CARGO) run $(PROFILE) -p raft-node --bin raft-node -- demo

test: setup-test
	$(CARGO) test $(PROFILE) $(EVERYTHING) --no-fail-fast

# The stages of the safety net that draw at random, longer than in `make test`: a line each, with what lengthens it.
soak: setup-test
	RAFT_CHAOS_SECONDS=1800 $(CARGO) test $(PROFILE) $(EVERYTHING) --test chaos -- --nocapture under_faults
	RAFT_LINEAR_HISTORIES=20000000 $(CARGO) test $(PROFILE) $(EVERYTHING) --test linear -- --nocapture both_checkers
	RAFT_SIM_SEED=$$(date +%s) RAFT_SIM_SEEDS=200000 $(CARGO) test $(PROFILE) $(EVERYTHING) --test simulator -- --nocapture
	RAFT_MUTANT_SEED=1000000 RAFT_MUTANT_SEEDS=20000 $(CARGO) test $(PROFILE) $(EVERYTHING) --test mutants -- --nocapture
	RAFT_LEASE_MODEL_STATES=40000000 RAFT_LEASE_MODEL_WALKS=5000000 RAFT_LEASE_MODEL_SEED=$$(date +%s) $(CARGO) test $(PROFILE) $(EVERYTHING) --test lease_model -- --nocapture
	RAFT_KILL_ROUNDS=2000 $(CARGO) test $(PROFILE) $(EVERYTHING) --test kills -- --nocapture
	RAFT_KV_RUNS=2000 $(CARGO) test $(PROFILE) $(EVERYTHING) --test property -- --nocapture
	RAFT_LOG_KILL_ROUNDS=500 $(CARGO) test $(PROFILE) $(EVERYTHING) --test kill -- --nocapture
	RAFT_SUITE_SEEDS=400 RAFT_SUITE_ROUNDS=40 $(CARGO) test $(PROFILE) $(EVERYTHING) --test suites --test conformance -- --nocapture
	RAFT_CRASH_IMAGES=200000 $(CARGO) test $(PROFILE) $(EVERYTHING) --test crash -- --nocapture
	RAFT_FLIPS=100000 RAFT_SEED=$$(date +%s) $(CARGO) test $(PROFILE) $(EVERYTHING) --test flips -- --nocapture

verify: fmt lint test doc deny

fmt:
	$(CARGO) fmt --all --check

lint: setup
	$(CARGO) clippy $(PROFILE) $(EVERYTHING) --all-targets -- -D warnings

doc: setup
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc $(PROFILE) $(EVERYTHING) --no-deps

deny:
	@if $(CARGO) deny --version >/dev/null 2>&1; then $(CARGO) deny check; \
	else echo 'cargo-deny is not installed: licences and advisories were not checked (cargo install cargo-deny)'; fi

# Packages are built with cargo's own profile for them; given the flags of ours, ccache answers for RocksDB.
package: setup
	$(CARGO) package $(PUBLISHED) --config profile.dev.opt-level=3 --config profile.dev.debug=false

# The feature that is the kit for authors of ports is part of the promise (raft_core::testing, "What stays as it is").
semver: setup
	@$(CARGO) semver-checks --version >/dev/null 2>&1 || \
		{ echo 'cargo-semver-checks is not installed: cargo install cargo-semver-checks --locked'; exit 1; }
	@test -n '$(SEMVER_BASE)' || { echo 'there is no tag yet to compare with: make semver SEMVER_BASE=<commit>'; exit 1; }
	$(CARGO) semver-checks $(PUBLISHED) --baseline-rev $(SEMVER_BASE)

# `make bench-etcd BENCH='--quick --rows 1-6'` measures less; docs/performance.md has the rows. It drives the raft-node that
# was built beside it.
bench: bench-etcd bench-libraries

bench-etcd: setup-bench
	$(CARGO) build $(PROFILE) $(EVERYTHING) --bin raft-node --bin compare
	$(CARGO) run $(PROFILE) $(EVERYTHING) --bin compare -- $(BENCH)

# Other libraries are built apart, with a lock file of their own; nobody else needs them.
PEERS := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),$(CURDIR)/target)/peers
bench-peers:
	$(CARGO) build $(PROFILE) --locked --manifest-path benches/peers/Cargo.toml --target-dir $(PEERS)

bench-libraries: setup bench-peers
	$(CARGO) run $(PROFILE) $(EVERYTHING) --bin libraries -- --peers $(PEERS)/release/raft-peers \
		--json $(dir $(PEERS))bench-libraries.json $(ROWS)

bench-micro: setup
	$(CARGO) bench $(EVERYTHING) --bench core_step --bench codec --bench log_store --bench lanes
