#!/usr/bin/env bash
# Installs what the tests need, and does nothing the second time. On Debian and
# its kin the packages are installed; elsewhere they are named, and the tests
# that need a missing one say so when they skip.
set -euo pipefail
cd "$(dirname "$0")/.."

want=(curl openssl python3 chromium postgresql redis-server softhsm2 sslscan nmap pgbouncer slowhttptest)
have() {
	case $1 in
	postgresql) compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || command -v initdb >/dev/null ;;
	pgbouncer) command -v pgbouncer >/dev/null || [[ -x /usr/sbin/pgbouncer ]] ;;
	redis-server) command -v valkey-server >/dev/null || command -v redis-server >/dev/null ;;
	softhsm2) command -v softhsm2-util >/dev/null ;;
	chromium) command -v chromium >/dev/null || command -v google-chrome >/dev/null ;;
	*) command -v "$1" >/dev/null ;;
	esac
}

missing=()
for p in "${want[@]}"; do have "$p" || missing+=("$p"); done
command -v node >/dev/null || missing+=(nodejs)
command -v npm >/dev/null || missing+=(npm)

if ((${#missing[@]})); then
	if ! command -v apt-get >/dev/null || [[ $(id -u) != 0 ]]; then
		echo "install these for the full test run: ${missing[*]}" >&2
	else
		echo "installing for the tests: ${missing[*]}"
		export DEBIAN_FRONTEND=noninteractive
		# The tests make their own cluster: the package must not start one.
		mkdir -p /etc/postgresql-common
		[[ -e /etc/postgresql-common/createcluster.conf ]] || echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
		apt-get -o DPkg::Lock::Timeout=180 update -qq
		apt-get -o DPkg::Lock::Timeout=180 install -y -qq --no-install-recommends --no-upgrade "${missing[@]}" >/dev/null
	fi
fi

if command -v npm >/dev/null && [[ ! -d test/federation/provider/node_modules/oidc-provider ]]; then
	echo "installing oidc-provider for the federation test"
	(cd test/federation/provider && npm ci --no-audit --no-fund --ignore-scripts --silent)
fi

if command -v npm >/dev/null && [[ ! -d test/browser/node_modules/playwright-core ]]; then
	echo "installing playwright-core for the browser test"
	(cd test/browser && npm ci --no-audit --no-fund --ignore-scripts --silent)
fi

if command -v npm >/dev/null && [[ ! -d test/oauth/node_modules/openid-client ]]; then
	echo "installing openid-client and oauth4webapi for the test of foreign clients"
	(cd test/oauth && npm ci --no-audit --no-fund --ignore-scripts --silent)
fi
