#!/usr/bin/env bash
# Kills every plane and service with kill -9 under load, ROUNDS times over, and
# demands that no acknowledged payment or audit event is lost.
set -euo pipefail
cd "$(dirname "$0")/.."
ROUNDS=${1:-10} go test -count=1 -timeout 2h -v -tags system -run '^TestKill$' ./test/system
