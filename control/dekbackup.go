package control

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/store"
)

// A backup of the data keys is a row of pages: what was shredded first, so that a
// restore knows it before it meets a key, then the keys of tenants, then those
// below them. Each page begins where the one before it says, and carries a MAC
// over all that it says.
const (
	stageSets    = "sets"
	stageDEKs    = "deks"
	stageSubkeys = "subkeys"
	pageLabel    = "rampart-dek-backup-v1"
	maxPage      = 1 << 20 // bytes of one page that comes back
)

// adminBackupDEKs returns the page after the one whose head it is given.
func (p *Plane) adminBackupDEKs(r *http.Request, e *audit.Event) (any, error) {
	var after wire.DEKPageHead
	if err := readJSON(r, &after); err != nil {
		return nil, err
	}
	e.Control = dataControl
	if after.ID == "" {
		now := p.opt.Now().UTC().Truncate(time.Second)
		after = wire.DEKPageHead{ID: backupID(), Taken: now, Expires: now.Add(backupAge), Stage: stageSets}
	} else if err := p.checkPage(after); err != nil {
		return nil, err
	}
	e.Resource = "dek-backup:" + after.ID
	page, err := p.nextPage(r.Context(), after)
	if err != nil {
		return nil, err
	}
	e.Detail["page"] = strconv.Itoa(page.N)
	return page, nil
}

func (p *Plane) nextPage(ctx context.Context, after wire.DEKPageHead) (wire.DEKPage, error) {
	next := wire.DEKPage{DEKPageHead: after}
	next.N++
	n, err := p.fillPage(ctx, &next)
	if err != nil {
		return next, unavailable(err)
	}
	if n < dekPage { // this stage is done
		next.Cursor = nil
		switch next.Stage {
		case stageSets:
			next.Stage = stageDEKs
		case stageDEKs:
			next.Stage = stageSubkeys
		default:
			next.Last = true
		}
	}
	sum := sha256.Sum256(next.Rows)
	next.Digest = sum[:]
	next.MAC = p.pageMAC(next.DEKPageHead)
	return next, nil
}

// backupRows is what a page holds, of one kind.
type backupRows struct {
	Sets    []store.KeySet `json:"sets,omitempty"`
	DEKs    []store.DEK    `json:"deks,omitempty"`
	Subkeys []store.Subkey `json:"subkeys,omitempty"`
}

// fillPage reads the rows after the page's cursor, moves it on and says how many
// there were.
func (p *Plane) fillPage(ctx context.Context, page *wire.DEKPage) (n int, err error) {
	var rows backupRows
	var last any
	switch page.Stage {
	case stageSets:
		rows.Sets, last, n, err = following(page.Cursor, func(k store.KeySet) ([]store.KeySet, error) {
			return p.opt.Store.ListKeySets(ctx, "", "", k, dekPage)
		})
	case stageDEKs:
		rows.DEKs, last, n, err = following(page.Cursor, func(d store.DEK) ([]store.DEK, error) {
			return p.opt.Store.ListDEKs(ctx, "", "", d, dekPage)
		})
	case stageSubkeys:
		rows.Subkeys, last, n, err = following(page.Cursor, func(k store.Subkey) ([]store.Subkey, error) {
			return p.opt.Store.ListSubkeys(ctx, k, dekPage)
		})
	}
	if err != nil {
		return 0, err
	}
	if page.Rows, err = json.Marshal(rows); err != nil {
		return 0, err
	}
	page.Cursor, err = json.Marshal(last)
	return n, err
}

// following lists what comes after a cursor, and returns the last of it.
func following[T any](cursor []byte, read func(T) ([]T, error)) (rows []T, last any, n int, err error) {
	var from T
	if len(cursor) > 0 {
		if err := json.Unmarshal(cursor, &from); err != nil {
			return nil, nil, 0, err
		}
	}
	rows, err = read(from)
	if len(rows) > 0 {
		from = rows[len(rows)-1]
	}
	return rows, from, len(rows), err
}

// pageMAC covers all that a head says, and through the digest its rows.
func (p *Plane) pageMAC(h wire.DEKPageHead) []byte {
	h.MAC = nil
	text, err := json.Marshal(h)
	if err != nil {
		return nil // no MAC equals it
	}
	m := hmac.New(sha256.New, p.deks.who)
	m.Write(lengths(pageLabel, string(text)))
	return m.Sum(nil)
}

// checkPage refuses a head that this system did not write, or one that is past
// its time: by then what was shredded after it must be gone for good.
func (p *Plane) checkPage(h wire.DEKPageHead) error {
	if want := p.pageMAC(h); want == nil || !hmac.Equal(want, h.MAC) {
		return rampart.Errorf(rampart.Invalid, dataControl, "control: this page is no backup of this system's data keys, or was changed")
	}
	if !p.opt.Now().Before(h.Expires) {
		return rampart.Errorf(rampart.Denied, dataControl, "control: the backup of %s ended on %s and must be deleted: keys that were shredded since would come back", h.Taken.Format(time.DateOnly), h.Expires.Format(time.DateOnly))
	}
	return nil
}

// adminRestoreDEKs takes one page back in. What is there stays as it is, and what
// was shredded stays gone.
func (p *Plane) adminRestoreDEKs(r *http.Request, e *audit.Event) (any, error) {
	var page wire.DEKPage
	if err := readJSON(r, &page); err != nil {
		return nil, err
	}
	e.Resource, e.Control = "dek-backup:"+page.ID[:min(len(page.ID), 32)], dataControl
	if err := p.checkPage(page.DEKPageHead); err != nil {
		return nil, err
	}
	rows, err := pageRows(page)
	if err != nil {
		return nil, err
	}
	var out wire.Restored
	if err := p.restore(r.Context(), rows, &out); err != nil {
		return nil, err
	}
	e.Detail["restored"], e.Detail["shredded"] = strconv.Itoa(out.Restored), strconv.Itoa(out.Shredded)
	return out, nil
}

// pageRows reads the rows that a page's digest, which was checked, is of.
func pageRows(page wire.DEKPage) (rows backupRows, err error) {
	if sum := sha256.Sum256(page.Rows); !bytes.Equal(sum[:], page.Digest) {
		return rows, rampart.Errorf(rampart.Invalid, dataControl, "control: the rows of page %d were changed", page.N)
	}
	if err := json.Unmarshal(page.Rows, &rows); err != nil {
		return rows, rampart.Errorf(rampart.Invalid, dataControl, "control: the rows of page %d do not parse", page.N)
	}
	return rows, nil
}

func (p *Plane) restore(ctx context.Context, rows backupRows, out *wire.Restored) error {
	for _, k := range rows.Sets {
		if err := p.opt.Store.PutKeySet(ctx, k); err != nil {
			return unavailable(err)
		}
	}
	for _, d := range rows.DEKs {
		if err := counted(out, p.opt.Store.PutDEK(ctx, d)); err != nil {
			return err
		}
	}
	for _, k := range rows.Subkeys {
		if err := counted(out, p.opt.Store.PutSubkey(ctx, k)); err != nil {
			return err
		}
	}
	return nil
}

// counted counts one key.
func counted(out *wire.Restored, err error) error {
	switch {
	case err == nil:
		out.Restored++
	case errors.Is(err, store.ErrExists):
		out.Present++
	case errors.Is(err, store.ErrShredded):
		out.Shredded++
	default:
		return unavailable(err)
	}
	return nil
}
