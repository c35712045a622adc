package sanitize

import (
	"encoding/json"
	"testing"
)

// A field of the type cannot hold what a caller should not have sent.
func TestHTMLIsCleanWhenDecoded(t *testing.T) {
	var in struct{ Note HTML }
	if err := json.Unmarshal([]byte(`{"note":"<b>hi</b><script>x()</script>"}`), &in); err != nil {
		t.Fatal(err)
	}
	if in.Note.String() != "<b>hi</b>" {
		t.Errorf("got %q", in.Note)
	}
	out, err := json.Marshal(in)
	if err != nil || string(out) != `{"Note":"\u003cb\u003ehi\u003c/b\u003e"}` {
		t.Errorf("got %s, %v", out, err)
	}
}
