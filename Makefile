# tapseal: run `make` for the list.

.DEFAULT_GOAL := help
.PHONY: help run test cluster bench build lint generate vuln clean

DIR ?= .dev
ARGS ?=
vault = $(if $(VAULT),--vault) $(if $(VAULT_ADDRESS),--vault-address "$(VAULT_ADDRESS)") \
	$(if $(VAULT_CA),--vault-ca "$(VAULT_CA)") $(if $(VAULT_TOKEN_FILE),--vault-token-file "$(VAULT_TOKEN_FILE)")

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' Makefile

run: ## install what is missing, build, start development mode in DIR, verify a tap, stay up (ARGS=--once: exit after the tap; VAULT=1: with a Vault, see docs/vault.md)
	@DIR="$(DIR)" exec scripts/run $(vault) $(ARGS)

test: ## install what is missing and run every check
	@scripts/test

cluster: ## three daemons, PostgreSQL and a standby under load while one part after the other is killed; a table (about 90 s)
	@scripts/cluster $(ARGS)

bench: build ## throughput, latency and cost against the raw token, as a table (ARGS=--help for its options)
	@scripts/bench $(ARGS)

build: ## the three programs in bin/
	@scripts/build

lint: ## format check, linters, layering
	@scripts/lint

generate: ## Go code from api/*.proto
	@scripts/generate

vuln: ## known vulnerabilities in what is imported (needs vuln.go.dev)
	@scripts/vuln

clean: ## remove bin/ and the development directory
	rm -rf bin "$(DIR)"
