package memory

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/rampart-security/rampart/authn/session"
)

// resident is how many sessions lie in the store while one is looked up: three
// each of a third of a million people.
const resident = 1_000_000

// fill puts them in, with what a browser's session has.
func fill(b *testing.B, st *Store, at time.Time) {
	b.Helper()
	for i := range resident {
		sum := sha256.Sum256(fmt.Append(nil, i))
		err := st.PutSession(context.Background(), session.Session{
			Key: sum, SID: base64.RawURLEncoding.EncodeToString(sum[:16]), Subject: fmt.Sprintf("user:person-%06d", i/3),
			Created: at, LastSeen: at, Expires: at.Add(12 * time.Hour), AuthTime: at, ACR: "aal1", AMR: []string{"pwd"},
			IP:    fmt.Sprintf("198.51.%d.%d", i>>8&0xff, i&0xff),
			Agent: fmt.Sprintf("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/%d.0.0.0 Safari/537.36", 100+i%40),
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// BenchmarkSessionResolveAmongAMillion reports the memory of one session too.
func BenchmarkSessionResolveAmongAMillion(b *testing.B) {
	before, st, at := heap(), New(), time.Now()
	fill(b, st, at)
	perSession := float64(heap()-before) / resident
	m := session.New(session.Options{Store: st, Key: make([]byte, 32), Now: func() time.Time { return at }})
	id, _, err := m.Create(b.Context(), session.Login{Subject: "user:ann", ACR: "aal1", AMR: []string{"pwd"}})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := m.Resolve(b.Context(), id); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(perSession, "B/session")
}

// BenchmarkSessionsOfOneSubject lists them among a million, as each login does.
func BenchmarkSessionsOfOneSubject(b *testing.B) {
	st := New()
	fill(b, st, time.Now())
	b.ReportAllocs()
	for b.Loop() {
		if list, err := st.Sessions(b.Context(), "user:person-000007"); err != nil || len(list) != 3 {
			b.Fatal(len(list), err)
		}
	}
}
