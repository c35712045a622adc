#!/usr/bin/env bash
# Runs every test and prints what was tested. CI calls it through `make test`.
set -euo pipefail
cd "$(dirname "$0")/.."
export RAMPART_PEERS="${RAMPART_PEERS:-${CI:+required}}"

echo "== units, policies, parsers on their seeds, command line"
go test ./...

echo "== public vectors: Wycheproof JWS and AES-GCM"
(cd test/vectors && go test -count=1 -v ./... | grep -v '^=== ')

echo "== JSON Schema: the JSON-Schema-Test-Suite, hardening off"
(cd test/schema && go test -count=1 -v ./... | grep -v '^=== ')

echo "== relations: the assertions that OpenFGA ships"
(cd test/conformance && go test -count=1 -v ./... | grep -v '^=== ')
if [[ -n "${RAMPART_OPENFGA:-}" ]]; then
	make --no-print-directory conformance-server
else
	echo "the same asked of OpenFGA's real server: left out, RAMPART_OPENFGA names none (make conformance-server builds it, which takes many minutes)"
fi

echo "== HTTP/2: h2spec against the edge, beside net/http"
(cd test/h2spec && go test -count=1 -v ./... | grep -v '^=== ')

echo "== Vault and OpenBao: their official clients beside ours, against the fake (a real server: make test-vault)"
(cd test/vault && go test -count=1 -v ./... | grep -v '^=== ')

echo "== providers that we did not write: oidc-provider, Dex"
go test -count=1 -v -run CertifiedProvider ./test/federation | grep -v '^=== '
(cd test/federation/dex && go test -count=1 -v ./... | grep -v '^=== ')

echo "== certificates of a real ACME server: Pebble"
RAMPART_PEBBLE="$(cd test/acme && go tool -n pebble)" RAMPART_PEBBLE_DNS="$(cd test/acme && go tool -n pebble-challtestsrv)" \
	go test -count=1 -v -run '^TestACME' ./gateway | grep -v '^=== '

echo "== a key encryption key in a module: SoftHSM"
CGO_ENABLED=1 go test -count=1 -v -tags pkcs11 ./secrets/kms/pkcs11 | grep -v '^=== '

echo "== race detector on what is shared between goroutines"
go test -race ./internal/planelink/... ./monitor/... ./ratelimit/... ./secrets/... $(go list ./network/... | grep -v /network/waf) ./authn/jwt/... ./authn/jwks/... ./tls/... ./data/...
go test -race -run 'Concurrent|ManyAtOnce' ./network/waf ./network/waf/guide
go test -race -short ./authz/pdp ./authz/bundle ./authz/decisionlog ./authz/rebac

echo "== the running system: browser, foreign service, refusals, rotation, kill -9, PostgreSQL, verify, falsify"
go test -count=1 -timeout 30m -v -tags system ./test/system | grep --line-buffered -v '^=== '
