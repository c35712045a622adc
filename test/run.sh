#!/usr/bin/env bash
# Runs every test and prints what was tested. CI calls it through `make test`. A
# phase that fails does not keep the next from being run; the last lines name all
# that failed.
set -uo pipefail
cd "$(dirname "$0")/.."
export RAMPART_PEERS="${RAMPART_PEERS:-${CI:+required}}"
failed=()

# phase NAME COMMAND...
phase() {
	echo "== $1"
	(set -e; "${@:2}") # with "||" behind it the shell would forget -e
	if (($? != 0)); then failed+=("$1"); fi
}

# apart prints what `go test -v` says, and at the end once more what the tests
# said that failed: those that run at once speak through one another.
apart() {
	awk '
		/^=== / { if (split($3, name, "/") > 0) now = name[1]; next }
		{ print; fflush() }
		/^ *--- (PASS|SKIP|FAIL): / { if ($2 == "FAIL:" && $3 !~ "/") { failed[++n] = $3 }; now = ($3 ~ "/") ? now : ""; next }
		now != "" { said[now] = said[now] $0 "\n" }
		END { for (i = 1; i <= n; i++) printf "== %s failed, and said:\n%s", failed[i], substr(said[failed[i]], 1, 20000) }'
}

# module FOLDER runs the tests of a module of its own, and names each.
module() { cd "$1" && go test -count=1 -v ./... | apart; }

# named TAGS PACKAGE PATTERN runs tests and names each.
named() { go test -count=1 -timeout 30m -v -tags "$1" -run "$3" "$2" | apart; }

pebble() {
	RAMPART_PEBBLE="$(cd test/acme && go tool -n pebble)"
	RAMPART_PEBBLE_DNS="$(cd test/acme && go tool -n pebble-challtestsrv)"
	export RAMPART_PEBBLE RAMPART_PEBBLE_DNS
	named "" ./gateway '^TestACME'
}

races() {
	go test -race ./internal/planelink/... ./internal/hop ./internal/leash ./internal/relay ./internal/socket ./monitor/... ./ratelimit/... ./secrets/... $(go list ./network/... | grep -v /network/waf) ./authn/jwt/... ./authn/jwks/... ./tls/... ./data/...
	go test -race -run 'Concurrent|ManyAtOnce' ./network/waf ./network/waf/guide
	go test -race -short ./authz/pdp ./authz/bundle ./authz/decisionlog ./authz/rebac
}

phase "units, policies, parsers on their seeds, command line" go test ./...
phase "public vectors: Wycheproof JWS and AES-GCM" module test/vectors
phase "JSON Schema: the JSON-Schema-Test-Suite, hardening off" module test/schema
phase "relations: the assertions that OpenFGA ships" module test/conformance
if [[ -n "${RAMPART_OPENFGA:-}" ]]; then
	phase "the same asked of OpenFGA's real server" make --no-print-directory conformance-server
else
	echo "the same asked of OpenFGA's real server: left out, RAMPART_OPENFGA names none (make conformance-server builds it, which takes many minutes)"
fi
phase "HTTP/2: h2spec against the edge, beside net/http" module test/h2spec
phase "Vault and OpenBao: their official clients beside ours, against the fake (a real server: make test-vault)" module test/vault
phase "providers that we did not write: oidc-provider" named "" ./test/federation CertifiedProvider
phase "providers that we did not write: Dex" module test/federation/dex
phase "certificates of a real ACME server: Pebble" pebble
CGO_ENABLED=1 phase "a key encryption key in a module: SoftHSM" named pkcs11 ./secrets/kms/pkcs11 .
phase "race detector on what is shared between goroutines" races
phase "the running system: browser, foreign service, refusals, rotation, kill -9, PostgreSQL, verify, falsify" named system ./test/system .

if ((${#failed[@]})); then
	echo "== failed:"
	printf '   %s\n' "${failed[@]}"
	exit 1
fi
echo "== all passed"
