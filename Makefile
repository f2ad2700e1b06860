# Each target does its own set-up. `make` alone lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
GO ?= go

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Bring PostgreSQL, a C compiler and InfluxDB, where they are missing
	@scripts/setup

build: ## Build broker, fleetd, agent and fleetctl into bin/ (VERSION=1.2.0: what the agent says that it is)
	CGO_ENABLED=0 $(GO) build $(if $(VERSION),-ldflags "-X groundswell/agent/telemetry.Version=$(VERSION)") $$(grep '^-' internal/devstack/agent.flags) -o bin/ ./agent
	CGO_ENABLED=0 $(GO) build -o bin/ ./broker ./fleetd ./fleetd/fleetctl

agents: ## Build the agent for amd64, arm64, armv7 and riscv64, static, stripped, at most 15 MB
	@scripts/agents

demo: setup ## Roll a good and a bad release out to 40 real agents (KEEP=1 leaves it up)
	@$(GO) build -o .cache/stack/demo ./internal/demo && exec .cache/stack/demo --with-parent $(if $(KEEP),--keep)

cluster: ## Start three broker nodes on loopback, and say how to connect (PORT=n: other ports)
	@$(GO) build -o .cache/stack/trio ./internal/trio && exec .cache/stack/trio $(if $(PORT),--port $(PORT))

test: machines ## Everything that must hold: format, vet, staticcheck, tests, race detector
	@scripts/test

test-long: machines ## What takes hours: kills, power cuts and cut networks, then every fuzz target for 10 minutes
	@scripts/long
	@scripts/fuzz 10m

test-power: machines ## Cut the power of QEMU machines that run the broker, and see what is left
	@scripts/long Power

test-boot: machines ## Update machines that boot with GRUB in QEMU, and cut their power meanwhile
	@$(GO) test -tags long -count=1 -timeout 1h -v ./agent/boottest

simulate: ## Simulate 100,000 updates in which everything goes wrong that may (RUNS=n runs of about 3)
	$(GO) test -count=1 -timeout 3h -v ./agent/simulation -runs $(or $(RUNS),34000) -all

test-network: machines ## Cut the network between three brokers (needs network namespaces)
	@scripts/long CutOff

machines: ## Bring QEMU, GRUB, U-Boot, a kernel and ip as well, for test, test-long, -power, -boot and -network
	@scripts/setup machines

lint: fmt-check vet ## Format, vet and staticcheck
	$(GO) tool staticcheck -tags long ./...

fmt-check: ## Name the files that gofmt would change
	@scripts/fmt-check

vet: ## go vet
	$(GO) vet -tags long ./...

race: machines ## The tests with shared state, under the race detector
	@scripts/test race

fuzz-short: ## Every fuzz target for 10 seconds
	@scripts/fuzz 10s

bench: setup ## Measure check-in latency, durable reports per second, time from pause to device
	$(GO) run ./internal/bench

bench-agent: setup ## What the agent takes from an idle device: memory and processor time
	$(GO) run ./internal/benchagent

bench-broker: ## Our broker beside plain mochi, mosquitto and nats-server (ARGS="--sessions 500 --retained 2000" is quick)
	@scripts/setup bench
	$(GO) run ./internal/benchbroker $(ARGS)

bench-delta: ## Our deltas beside zstd, bsdiff, xdelta3, casync and zchunk (ARGS="--pairs uefi,go-arm64" is quick)
	@scripts/setup deltas
	@scripts/pairs
	@mkdir -p .cache/stack && $(GO) build -o .cache/stack/ ./internal/benchdelta ./internal/benchdelta/patch && exec .cache/stack/benchdelta $(ARGS)

bench-battery: ## Measure bytes and radio-on seconds of a battery device's check-in
	$(GO) test -tags long -count=1 -timeout 10m -v -run '^TestBatteryFigures$$' ./agent

clean: ## Remove what was built and cached in this clone (not what setup installed)
	rm -rf bin .cache demo.json bench-broker.json

.PHONY: help setup build agents demo cluster test test-long test-power test-boot test-network simulate machines lint fmt-check vet race fuzz-short bench bench-agent bench-broker bench-delta bench-battery clean
