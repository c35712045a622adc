//go:build system

package system

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"image/png"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/makiuchi-d/gozxing"
	"github.com/makiuchi-d/gozxing/qrcode"
)

// TestFactors has a real browser enrol and use passkeys, an authenticator app
// and recovery codes; the script says what it demands. The QR code is read from
// a picture of the page. SCREENSHOTS names a folder for pictures.
func TestFactors(t *testing.T) {
	t.Parallel()
	need(t, "node")
	const script = "../browser/factors.mjs"
	if _, err := os.Stat(filepath.Join(filepath.Dir(script), "node_modules", "playwright-core")); err != nil {
		missing(t, "playwright-core is not installed; run make tools")
	}
	r := start(t, variant(t))
	in, err := json.Marshal(map[string]string{
		"base": r.base(), "browser": browser(t), "screenshots": os.Getenv("SCREENSHOTS"),
		"user": "alice", "password": r.password("alice"), "other": "bob", "otherPassword": r.password("bob"),
	})
	if err != nil {
		t.Fatal(err)
	}
	converse(t, string(in), exec.Command("node", script))
	r.auditHolds()
}

// converse runs the script, tells it in, and reads its QR codes for it.
func converse(t *testing.T, in string, cmd *exec.Cmd) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { cmd.Process.Kill() })
	defer stop()
	var errs output
	cmd.Stderr = &errs
	to, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	from, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(to, in)
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		picture, ok := strings.CutPrefix(lines.Text(), "qr ")
		if !ok {
			t.Log(lines.Text())
			continue
		}
		text, err := readQR(picture)
		if err != nil {
			t.Errorf("the QR code: %v", err)
		}
		fmt.Fprintln(to, text)
	}
	io.Copy(io.Discard, from)
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, errs.String())
	}
}

// readQR reads a picture, PNG in base64, as a phone's camera would.
func readQR(picture string) (string, error) {
	raw, err := base64.StdEncoding.DecodeString(picture)
	if err != nil {
		return "", err
	}
	img, err := png.Decode(bytes.NewReader(raw))
	if err != nil {
		return "", err
	}
	// The reader looks for patterns in whatever a camera sees, and some codes
	// look to it as if they held more; then it is told that there is nothing else.
	for _, hint := range []gozxing.DecodeHintType{gozxing.DecodeHintType_TRY_HARDER, gozxing.DecodeHintType_PURE_BARCODE} {
		var bitmap *gozxing.BinaryBitmap
		if bitmap, err = gozxing.NewBinaryBitmapFromImage(img); err != nil {
			return "", err
		}
		var read *gozxing.Result
		if read, err = qrcode.NewQRCodeReader().Decode(bitmap, map[gozxing.DecodeHintType]any{hint: true}); err == nil {
			return read.GetText(), nil
		}
	}
	return "", err
}
