package spec

import (
	"bytes"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/rampart-security/rampart/internal/literal"
)

// The one answer to a secret in the file. It never repeats the value.
const (
	secretMsg = "a literal secret"
	secretFix = "store it with rampart secret put, name it as secret://embedded/PATH, and replace it everywhere: whoever read this file has it"
)

// secretKeys are names whose values are credentials whatever they look like.
var secretKeys = []string{
	"password", "passwd", "passphrase", "secret", "token", "api_key", "apikey", "client_secret", "private_key",
	"access_key", "secret_key", "access_token", "refresh_token", "credential", "credentials",
}

// secretArgument matches a credential on a command line, --password=hunter2.
var secretArgument = regexp.MustCompile(`(?i)(password|passwd|secret|token|api[_-]?key)=[^$\s]`)

// rateLike matches what api_key holds where it is a limit, slips included.
var rateLike = regexp.MustCompile(`^[0-9]{0,10}/?[a-z]{0,8}$`)

// secretForms are credentials by their shape.
var secretForms = literal.New()

func secretValue(value string) bool { return secretForms.Match(value) }

// literalSecret reports whether a key of this name must not hold this value.
// Keys that name a secret or a rate, yes and no, and Stripe's public test tokens in a
// scenario (tok_visa), are not secrets.
func literalSecret(path, key string, value *yaml.Node) bool {
	name := strings.ReplaceAll(strings.ToLower(key), "-", "_")
	if value.Kind != yaml.ScalarNode || value.Tag == "!!null" || value.Tag == "!!bool" || !slices.Contains(secretKeys, name) {
		return false
	}
	switch {
	case strings.HasPrefix(value.Value, "secret://"):
		return false
	case key == "secret" && strings.HasSuffix(path, ".inject"):
		return false
	case key == "client_secret" && (strings.HasPrefix(path, "identity.providers.") || strings.HasPrefix(path, "identity.providers[")):
		return false // it names a credential; that a list is no map, the decoder says
	case key == "credentials" && strings.HasSuffix(path, ".cors"):
		return false // it is true or false, as the decoder says
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
		if at := secretForms.Index(line[hash:]); at >= 0 {
			r.badAt(position{i + 1, hash + at + 1}, "", secretMsg+" in a comment", secretFix)
		}
	}
}
