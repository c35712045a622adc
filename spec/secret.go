package spec

import (
	"bytes"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// The one answer to a secret in the file. It never repeats the value.
const (
	secretMsg = "a literal secret"
	secretFix = "store it with rampart secret set, name it as secret://embedded/PATH, and replace it everywhere: whoever read this file has it"
)

// secretForm matches values that are credentials by their shape: well-known
// key prefixes with something behind them, PEM private keys, JWTs, URLs with a
// password.
var secretForm = regexp.MustCompile(strings.Join([]string{
	`\b[sr]k_(live|test)_[0-9A-Za-z]{3,}`,
	`\b(AKIA|ASIA)[0-9A-Z]{12,}`,
	`\bgh[pousr]_[0-9A-Za-z]{8,}`,
	`\bgithub_pat_[0-9A-Za-z_]{8,}`,
	`\bglpat-[0-9A-Za-z_-]{8,}`,
	`\bxox[abeprs]-[0-9A-Za-z-]{6,}`,
	`\bAIza[0-9A-Za-z_-]{20,}`,
	`\bhvs\.[0-9A-Za-z_-]{12,}`,
	`\beyJ[0-9A-Za-z_-]{8,}\.eyJ[0-9A-Za-z_-]{8,}\.`,
	`-----BEGIN [A-Z ]*PRIVATE KEY`,
	`[a-z][a-z0-9+.-]*://[^/@:\s"']*:[^/@\s"']+@`,
}, "|"))

// secretKeys are names whose values are credentials whatever they look like.
var secretKeys = []string{
	"password", "passwd", "passphrase", "secret", "token", "api_key", "apikey", "client_secret", "private_key",
	"access_key", "secret_key", "access_token", "refresh_token", "credential", "credentials",
}

// secretArgument matches a credential on a command line, --password=hunter2.
var secretArgument = regexp.MustCompile(`(?i)(password|passwd|secret|token|api[_-]?key)=[^$\s]`)

// rateLike matches what api_key holds where it is a limit, slips included.
var rateLike = regexp.MustCompile(`^[0-9]{0,10}/?[a-z]{0,8}$`)

func secretValue(value string) bool { return secretForm.MatchString(value) }

// literalSecret reports whether a key of this name must not hold this value.
// Keys that name a secret or a rate, and Stripe's public test tokens in a
// scenario (tok_visa), are not secrets.
func literalSecret(path, key string, value *yaml.Node) bool {
	name := strings.ReplaceAll(strings.ToLower(key), "-", "_")
	if value.Kind != yaml.ScalarNode || value.Tag == "!!null" || !slices.Contains(secretKeys, name) {
		return false
	}
	switch {
	case strings.HasPrefix(value.Value, "secret://"):
		return false
	case key == "secret" && strings.HasSuffix(path, ".inject"):
		return false
	case key == "client_secret" && (strings.HasPrefix(path, "identity.providers.") || strings.HasPrefix(path, "identity.providers[")):
		return false // it names a credential; that a list is no map, the decoder says
	case key == "api_key" && rateLike.MatchString(value.Value):
		return false
	case strings.HasPrefix(path, "verify.scenario") && (strings.HasPrefix(value.Value, "tok_") || strings.Contains(value.Value, "${")):
		return false
	}
	return true
}

// commentSecrets finds credentials that stand in comments, which have no node.
func (r *report) commentSecrets(text []byte) {
	for i, line := range bytes.Split(text, []byte("\n")) {
		hash := bytes.IndexByte(line, '#')
		if hash < 0 {
			continue
		}
		if m := secretForm.FindIndex(line[hash:]); m != nil {
			r.badAt(position{i + 1, hash + m[0] + 1}, "", secretMsg+" in a comment", secretFix)
		}
	}
}
