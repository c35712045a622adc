package sidecar

import (
	"errors"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/statedir"
)

const (
	keysLast = 5 * time.Minute  // for which a process of the service keeps a key at most
	noteKeys = 30 * time.Second // between notes that keys are handed out
)

// keysOut remembers on disk when the service was last given a data key: a process
// of the service may hold it still when this one, which knew of it, is killed and
// started anew.
type keysOut struct {
	state *statedir.Dir
	file  string
	now   func() time.Time

	mu    sync.Mutex // guards noted
	noted time.Time
}

// note is called before a key goes out. Closed by choice when it cannot be
// written: a key that nobody knows of would be called forgotten.
func (k *keysOut) note() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	if age := now.Sub(k.noted); age >= 0 && age < noteKeys {
		return nil
	}
	if err := k.state.WriteFile(k.file, []byte(now.UTC().Format(time.RFC3339)), 0o600); err != nil {
		return &rampart.Error{Kind: rampart.Unavailable, Control: "data.envelope", Msg: "that a key is handed out cannot be noted", Err: err}
	}
	k.noted = now
	return nil
}

// until is when the last key ends that an earlier process may have handed out;
// zero when there was none. A note that cannot be read may be of this moment, and
// so may one of the future.
func (k *keysOut) until() time.Time {
	text, err := os.ReadFile(k.state.Path(k.file))
	if errors.Is(err, fs.ErrNotExist) {
		return time.Time{}
	}
	now := k.now()
	at, bad := time.Parse(time.RFC3339, string(text))
	if err != nil || bad != nil || at.After(now) {
		at = now
	}
	return at.Add(noteKeys + keysLast)
}
