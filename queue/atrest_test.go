package queue_test

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rampart-security/rampart/control/controltest"
)

// TestNothingReadableAtRest: a copy of the queue's folder reads no message, and
// not the key.
func TestNothingReadableAtRest(t *testing.T) {
	h := controltest.Start(t, controltest.File(t))
	dir := t.TempDir()
	q, stop := start(t, h, dir)
	shop := connect(t, h, q, "shop")
	canary := []byte("canary of a person's address, who pays")
	h.Until("the message is stored", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := shop.js.Publish(ctx, "orders.sold", canary)
		return err == nil
	})
	stop()
	files := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		files++
		if bytes.Contains(b, canary) || bytes.Contains(b, bytes.Repeat([]byte("k"), 32)) {
			t.Errorf("%s holds a message or the key", d.Name())
		}
		return err
	})
	if err != nil || files == 0 {
		t.Errorf("%d files: %v", files, err)
	}
}
