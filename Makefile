# Two commands matter: make up, make test. The rest is for developers.
SHELL := /bin/bash
GO    ?= go
FILE  ?= examples/payments/rampart.yaml
STATE ?= .rampart

.PHONY: bench-edge up test check verify falsify bench bench-authz rekey-long conformance-server test-vault crs guided slow fuzz chaos tools clean

up: ## run the payment system, defended, on https://localhost:8443; ARGS=--free-ports, say, is handed to rampart up
	@echo "building rampart and the example (the first build takes some minutes; each package is shown)"
	@$(GO) build -v -o bin/rampart ./cmd/rampart
	@$(GO) build -v -o /dev/null ./examples/payments/... 2>&1 | sed 's/^/  /' || true
	@bin/rampart up -f $(FILE) --state $(STATE) $(ARGS)

test: tools check ## everything that must be green, with what it needs installed first
	test/run.sh

check: ## gofmt, vet, architecture
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo "run gofmt -w on these files"; exit 1; }
	$(GO) vet ./... && $(GO) vet -tags system ./test/system
	$(GO) test .

tools: ## install what the tests need; does nothing the second time
	@test/install.sh

verify: ## attack the running system
	bin/rampart verify -f $(FILE) --state $(STATE)

falsify: ## switch each control off in a throw-away copy and demand that its probes notice
	bin/rampart verify --falsify -f $(FILE)

bench: ## every stage, with allocations
	$(GO) test -run '^$$' -bench . -benchmem ./... | grep -v '^ok\|no test files'

# The servers that others would run instead are built by the go command, which
# takes many minutes the first time and is why `make test` leaves them out unless
# RAMPART_OPENFGA names one that was built before.
bench-authz: ## decisions beside OPA, cedar-go and OpenFGA (the first build of the servers takes many minutes)
	cd bench && RAMPART_BENCH_OPA="$$($(GO) tool -n opa)" RAMPART_BENCH_OPENFGA="$$($(GO) tool -n openfga)" \
		$(GO) test -run '^$$' -bench . -benchmem -timeout 30m .

bench-edge: ## CPU per request at the edge, beside nginx, ModSecurity with the same rules, haproxy, Caddy and a bare Go proxy, as far as they are installed; ROUNDS rounds (default 5), RATE requests a second (default 1000; 0: as many as 16 clients get)
	RAMPART_BENCH_EDGE=$${ROUNDS:-5} RAMPART_BENCH_EDGE_RATE=$$RATE $(GO) test -tags system -count=1 -v -timeout 60m -run '^TestEdgeBench$$' ./test/system | grep -v '^=== '

conformance-server: ## OpenFGA's assertions asked of its real server, and a sidecar beside it (the first build takes many minutes)
	@export RAMPART_OPENFGA="$${RAMPART_OPENFGA:-$$(cd test/conformance && $(GO) tool -n openfga)}" && \
		(cd test/conformance && $(GO) test -count=1 -v -tags server -run Server . | grep -v '^=== ') && \
		$(GO) test -count=1 -v -run OpenFGA ./sidecar | grep -v '^=== '

# The token in the file may mount engines, write policies and make tokens. What
# is mounted is called rampart-test-RANDOM and removed again. VAULT_DATABASE_FILE
# may hold the connection_url of a PostgreSQL in which it may make roles.
test-vault: ## our client and the official ones against your Vault or OpenBao: VAULT_ADDR=https://… VAULT_CACERT=… VAULT_TOKEN_FILE=…
	@test -n "$(VAULT_ADDR)" -a -n "$(VAULT_TOKEN_FILE)" || { echo "usage: make test-vault VAULT_ADDR=https://HOST:8200 VAULT_TOKEN_FILE=FILE [VAULT_CACERT=FILE]"; exit 2; }
	@cd test/vault && RAMPART_TEST_VAULT_ADDR="$(VAULT_ADDR)" RAMPART_TEST_VAULT_TOKEN_FILE="$(abspath $(VAULT_TOKEN_FILE))" RAMPART_TEST_VAULT_CACERT="$(if $(VAULT_CACERT),$(abspath $(VAULT_CACERT)))" \
		RAMPART_TEST_VAULT_DATABASE_FILE="$(if $(VAULT_DATABASE_FILE),$(abspath $(VAULT_DATABASE_FILE)))" \
		$(GO) test -count=1 -v . | grep -v '^=== '

rekey-long: ## ROWS rows (default 1000000) sealed anew beside writers, in SQLite and PostgreSQL, with kill -9 twice
	RAMPART_REKEY_ROWS=$${ROWS:-1000000} $(GO) test -count=1 -v -timeout 60m -run '^TestRekey$$' ./sdk/pii

rotation: ## database passwords and certificates replaced under 500 transactions a second, directly and behind PgBouncer
	RAMPART_LONG=1 $(GO) test -count=1 -v -timeout 15m -run '^TestRotation$$' ./sdk/db | grep -v '^=== '

crs: ## all regression tests of the Core Rule Set against the WAF, with and without it
	RAMPART_LONG=1 $(GO) test -count=1 -v -timeout 30m -run 'CoreRuleSet|Guid' ./network/waf/... | grep -v '^=== '

guided: ## 100,000 made-up requests at each paranoia level: what the guide spares the rules, they find nothing in
	RAMPART_LONG=1 $(GO) test -count=1 -v -timeout 90m -run '^TestGenerated$$' ./network/waf/guide | grep -v '^=== '

slow: ## slow clients in every mode, 10,000 idle connections, bodies without end, beside a good client
	RAMPART_LONG=1 $(GO) test -count=1 -v -timeout 30m -tags system -run '^TestSlowClients$$' ./test/system | grep -v '^=== '

fuzz: ## every parser of outside bytes, FUZZTIME each (default 60s)
	test/fuzz.sh $${FUZZTIME:-60s}

fuzz-framing: ## made-up HTTP/1 conversations, read alike by net/http and node behind the guard; FUZZTIME long (default 10m)
	RAMPART_FRAMING_FUZZ=$${FUZZTIME:-10m} RAMPART_FRAMING_SEED=$${SEED:-1} $(GO) test -count=1 -v -timeout 12h -run '^TestDifferential$$' ./network/framing | grep -v '^=== '

chaos: ## kill -9 of every plane under load, ROUNDS rounds (default 10)
	test/chaos.sh $${ROUNDS:-10}

clean: ## remove what was built, and the state folder with its keys and data
	rm -rf bin $(STATE) test/browser/node_modules
