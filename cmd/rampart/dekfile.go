package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/rampart-security/rampart/internal/wire"
)

// maxPageLine bounds one line of a backup of data keys, which is one page.
const maxPageLine = 2 << 20

// writePages writes a backup, which next hands out page by page, a line each. The
// file has its name when it is whole, and no reader but its owner.
func writePages(name string, next func(after wire.DEKPageHead) (wire.DEKPage, error)) (wire.DEKPageHead, error) {
	f, err := os.CreateTemp(filepath.Dir(name), ".dek-backup-*") // 0600
	if err != nil {
		return wire.DEKPageHead{}, &exitError{exitUsage, err}
	}
	defer os.Remove(f.Name()) // after a rename there is nothing to remove
	defer f.Close()
	w := bufio.NewWriter(f)
	var head wire.DEKPageHead
	for !head.Last {
		page, err := next(head)
		if err != nil {
			return head, err
		}
		line, err := json.Marshal(page)
		if err != nil {
			return head, err
		}
		w.Write(append(line, '\n')) // Flush has the error
		head = page.DEKPageHead
	}
	if err := errors.Join(w.Flush(), f.Sync(), f.Close()); err != nil {
		return head, err
	}
	return head, os.Rename(f.Name(), name)
}

// readPages calls f with the pages of a backup, in order, once it is known that
// the file holds all of one. What the pages say only the control plane can judge.
func readPages(r io.ReadSeeker, f func(wire.DEKPage) error) error {
	if err := eachPage(r, func(wire.DEKPage) error { return nil }); err != nil {
		return err
	}
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return eachPage(r, f)
}

func eachPage(r io.Reader, f func(wire.DEKPage) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxPageLine)
	var last wire.DEKPageHead
	for lines.Scan() {
		var page wire.DEKPage
		if err := json.Unmarshal(lines.Bytes(), &page); err != nil {
			return usageError("line %d is no page of a backup of data keys", last.N+1)
		}
		if page.N != last.N+1 || last.Last || last.N > 0 && page.ID != last.ID {
			return usageError("line %d does not follow the one before it: the file is put together from several", last.N+1)
		}
		if err := f(page); err != nil {
			return err
		}
		last = page.DEKPageHead
	}
	if err := lines.Err(); err != nil {
		return &exitError{exitUsage, fmt.Errorf("the backup: %w", err)}
	}
	if !last.Last {
		return usageError("the backup has no end: it was cut")
	}
	return nil
}
