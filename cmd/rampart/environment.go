package main

import (
	"slices"
	"strings"
)

// passedOn picks from the operator's environment what a child may see. The rest
// stays out: an operator's shell holds cloud keys and tokens that are none of a
// service's business, least of all of one that was taken over.
func passedOn(environ []string, service bool) []string {
	return slices.DeleteFunc(slices.Clone(environ), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return !planeMaySee(name) && !(service && serviceMaySee(name)) && !(!service && backendMaySee(name))
	})
}

// planeMaySee lists what a plane's own code reads: where the time is, where
// temporary files go, whom to trust on the way out, and how much of the machine it
// may take.
func planeMaySee(name string) bool {
	switch name {
	case "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "GOMAXPROCS", "GOGC", "GOMEMLIMIT":
		return true
	}
	return false
}

// backendMaySee lists where planes find credentials for backends of secrets: names
// of files and roles, never a credential.
func backendMaySee(name string) bool {
	switch name {
	case "AWS_PROFILE", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_ROLE_ARN", "AWS_ROLE_SESSION_NAME", "AWS_WEB_IDENTITY_TOKEN_FILE",
		"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "SOFTHSM2_CONF":
		return true
	}
	return false
}

// serviceMaySee lists what a service's command needs beside that: to be found,
// to know its user and language, and to be built by `go run`.
func serviceMaySee(name string) bool {
	switch name {
	case "PATH", "HOME", "USER", "LANG", "XDG_CACHE_HOME",
		"GOPATH", "GOMODCACHE", "GOCACHE", "GOFLAGS", "GOPROXY", "GONOSUMDB", "GONOSUMCHECK", "GOTOOLCHAIN", "GOROOT":
		return true
	}
	return strings.HasPrefix(name, "LC_")
}
