package sidecar

import (
	"maps"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/internal/problem"
)

// Bounds of what the service says of the credentials that it uses.
const (
	reportLasts = time.Minute // of a process that is silent: it has ended
	maxReports  = 64          // processes
	maxReported = 200         // names of one report
	refuseEvery = 2 * time.Second
)

// inUse knows which versions of secrets this process and the service use: what
// the rotation of a credential waits for. A service that never reports counts as
// using the version that it fetched last.
type inUse struct {
	now func() time.Time

	mu      sync.Mutex
	cached  map[string]int // by name: what this process would give out or inject
	handed  map[string]int // what the service fetched last
	reports map[string]report
	refused map[string]time.Time // by name: when the service last said that it does not work
}

type report struct {
	versions map[string]int
	at       time.Time
}

func newInUse(now func() time.Time) *inUse {
	return &inUse{now: now, cached: map[string]int{}, handed: map[string]int{}, reports: map[string]report{}, refused: map[string]time.Time{}}
}

// fetched notes what came from the control plane.
func (u *inUse) fetched(name string, version int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.cached[name] = version
}

// gave notes what the service got.
func (u *inUse) gave(name string, version int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.handed[name] = version
}

// forget notes that this process has dropped what it had.
func (u *inUse) forget(names []string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, name := range names {
		delete(u.cached, name)
	}
}

// drop notes that this process has dropped all that it had, and returns the names.
func (u *inUse) drop() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	names := slices.Collect(maps.Keys(u.cached))
	clear(u.cached)
	return names
}

// report takes what one process of the service says of secrets that it may hold.
func (u *inUse) report(q agent.SecretsInUse) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.lapseLocked()
	if _, known := u.reports[q.Process]; !known && len(u.reports) >= maxReports || len(q.Versions) > maxReported {
		return rampart.Errorf(rampart.Limited, limitSocket, "at most %d processes report at most %d secrets", maxReports, maxReported)
	}
	u.reports[q.Process] = report{q.Versions, u.now()}
	return nil
}

func (u *inUse) lapseLocked() {
	maps.DeleteFunc(u.reports, func(_ string, r report) bool { return u.now().Sub(r.at) > reportLasts })
}

// oldest returns the oldest version in use of each secret. Of those that the
// service may hold, and said nothing of since this process started, it is 0: the
// service may have been there before.
func (u *inUse) oldest(held []string) map[string]int {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.lapseLocked()
	out := maps.Clone(u.handed)
	said := map[string]int{}
	for _, r := range u.reports {
		lower(said, r.versions)
	}
	maps.Copy(out, said)
	for _, name := range held {
		if _, known := out[name]; !known {
			out[name] = 0
		}
	}
	lower(out, u.cached)
	return out
}

// lower makes each number of a the lower of itself and b's.
func lower(a, b map[string]int) {
	for name, v := range b {
		if old, ok := a[name]; !ok || v < old {
			a[name] = v
		}
	}
}

// held names the secrets that the service may hold itself.
func (t *table) held() []string {
	var out []string
	for _, f := range t.sys.FlowsFrom(t.name) {
		if name := "store:" + f.To; t.handsOut(name) {
			out = append(out, name)
		}
	}
	for name := range t.svc.Secrets {
		if t.handsOut(name) {
			out = append(out, name)
		}
	}
	return out
}

// mayRefuse reports whether a secret is fetched anew because the service says
// that it does not work: not more often than is needed.
func (u *inUse) mayRefuse(name string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.now().Sub(u.refused[name]) < refuseEvery {
		return false
	}
	u.refused[name] = u.now()
	return true
}

// secretsInUse takes a report of the service.
func (s *Sidecar) secretsInUse(w http.ResponseWriter, r *http.Request) {
	var q agent.SecretsInUse
	err := ask(r, &q)
	if err == nil && (q.Process == "" || len(q.Process) > 64) {
		err = rampart.Errorf(rampart.Invalid, "", "process must be 1 to 64 bytes, random per process")
	}
	for name := range q.Versions {
		if err == nil && !s.table.Load().handsOut(name) {
			err = rampart.Errorf(rampart.Denied, "secret.acl", "this service is not given %.100q", name)
		}
	}
	if err == nil {
		err = s.inUse.report(q)
	}
	if err != nil {
		problem.Write(w, err, "")
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// refusedVersion drops a cached secret that the service says does not work, if
// it is the one that is cached: a newer one may not have been announced yet.
func (s *Sidecar) refusedVersion(r *http.Request, name string) {
	v, err := strconv.Atoi(r.URL.Query().Get("refused"))
	if err != nil || !s.inUse.mayRefuse(name) {
		return
	}
	if sec, err := s.held(r.Context(), name); err == nil && sec.Version() == v {
		s.secrets.Forget(name)
	}
}
