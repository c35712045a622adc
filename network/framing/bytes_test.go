package framing

import "testing"

// TestText compares eight bytes at once with one by one, at every place.
func TestText(t *testing.T) {
	for n := range 20 {
		for at := range n {
			for c := range 256 {
				b := make([]byte, n)
				for i := range b {
					b[i] = 'a'
				}
				b[at] = byte(c)
				if got, want := isText(b), isTextSlow(b); got != want {
					t.Fatalf("%q: %v, want %v", b, got, want)
				}
			}
		}
	}
	if isText([]byte("abcdefg\x00")) || !isText([]byte("a\tb\xffcdefghi")) {
		t.Error("a control character passes, or a tab does not")
	}
}
