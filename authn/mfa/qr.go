package mfa

import (
	"fmt"
	"strings"

	"rsc.io/qr"
)

// quiet is the light border that readers need around a code, in modules.
const quiet = 4

// QR is a QR code as the path of an SVG image: crisp at any size, and part of
// the page that shows it, so that no picture of a secret has an address.
type QR struct {
	Size int    // modules on a side, the quiet border included
	Path string // of the dark modules: M, h, v and z alone
}

// NewQR encodes text, which is limited to a few hundred bytes.
func NewQR(text string) (QR, error) {
	code, err := qr.Encode(text, qr.M)
	if err != nil {
		return QR{}, fmt.Errorf("mfa: %v", err)
	}
	var b strings.Builder
	for y := range code.Size {
		for x := 0; x < code.Size; x++ {
			from := x
			for code.Black(x, y) {
				x++
			}
			if x > from {
				fmt.Fprintf(&b, "M%d %dh%dv1h-%dz", from+quiet, y+quiet, x-from, x-from)
			}
		}
	}
	return QR{Size: code.Size + 2*quiet, Path: b.String()}, nil
}
