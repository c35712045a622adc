package embedded

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/secrets"
)

// memory is Rows in a list, with its contract.
type memory struct {
	mu   sync.Mutex
	rows []Row
	made []time.Time
}

func newMemory() *memory { return &memory{} }

var errNone = rampart.Errorf(rampart.NotFound, control, "no such secret")

// at finds a version, or the newest when version is 0.
func (m *memory) at(path string, version int) int {
	found := -1
	for i, r := range m.rows {
		if r.Path == path && (version == 0 || r.Version == version) {
			found = i
		}
	}
	return found
}

func (m *memory) PutSecret(_ context.Context, path string, version int, sealed []byte, now time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	newest := 0
	if i := m.at(path, 0); i >= 0 {
		newest = m.rows[i].Version
	}
	if newest != version-1 {
		return rampart.Errorf(rampart.Conflict, control, "version %d is not next", version)
	}
	m.rows, m.made = append(m.rows, Row{path, version, sealed}), append(m.made, now)
	return nil
}

func (m *memory) GetSecret(_ context.Context, path string, version int) (int, []byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := m.at(path, version)
	if i < 0 {
		return 0, nil, errNone
	}
	return m.rows[i].Version, m.rows[i].Sealed, nil
}

func (m *memory) ListSecrets(context.Context) ([]secrets.Listed, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []secrets.Listed
	for i, r := range m.rows {
		if m.at(r.Path, 0) == i && len(r.Sealed) > 0 {
			out = append(out, secrets.Listed{Path: r.Path, Version: r.Version, Created: m.made[i]})
		}
	}
	slices.SortFunc(out, func(a, b secrets.Listed) int { return cmp.Compare(a.Path, b.Path) })
	return out, nil
}

func (m *memory) DestroySecret(_ context.Context, path string, version int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	hit := false
	for i, r := range m.rows {
		if r.Path == path && (version == 0 || r.Version == version) && len(r.Sealed) > 0 {
			m.rows[i].Sealed, hit = nil, true
		}
	}
	if !hit {
		return errNone
	}
	return nil
}

func byPlace(a, b Row) int {
	return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Version, b.Version))
}

func (m *memory) SecretRows(_ context.Context, after Row, limit int) ([]Row, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	rows := slices.DeleteFunc(slices.Clone(m.rows), func(r Row) bool { return len(r.Sealed) == 0 || byPlace(r, after) <= 0 })
	slices.SortFunc(rows, byPlace)
	return rows[:min(len(rows), limit)], nil
}

func (m *memory) SwapSecret(_ context.Context, r Row, old []byte) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := m.at(r.Path, r.Version)
	if i < 0 || !bytes.Equal(m.rows[i].Sealed, old) {
		return false, nil
	}
	m.rows[i].Sealed = r.Sealed
	return true, nil
}
