package secrets

import (
	"strings"

	"github.com/rampart-security/rampart"
)

// Ref is where a secret is kept, secret://BACKEND/PATH#FIELD as rampart.yaml
// writes it. The zero Ref names nothing.
type Ref struct {
	Backend string // key of secrets in rampart.yaml, or "embedded"
	Path    string // within the backend, without a slash at its ends
	Field   string // of a secret that has several; "" is the backend's usual one
}

const scheme = "secret://"

// ParseRef reads a reference. Errors are of kind Invalid and do not repeat the
// text: it may be the secret itself.
func ParseRef(text string) (Ref, error) {
	rest, ok := strings.CutPrefix(text, scheme)
	backend, rest, more := strings.Cut(rest, "/")
	path, field, _ := strings.Cut(rest, "#")
	if !ok || !more || backend == "" || path == "" || strings.HasPrefix(path, "/") || strings.HasSuffix(path, "/") {
		return Ref{}, rampart.Errorf(rampart.Invalid, control, "want a reference of the form secret://BACKEND/PATH#FIELD")
	}
	return Ref{backend, path, field}, nil
}

// String returns the reference as rampart.yaml writes it. It is no secret.
func (r Ref) String() string {
	text := scheme + r.Backend + "/" + r.Path
	if r.Field != "" {
		text += "#" + r.Field
	}
	return text
}
