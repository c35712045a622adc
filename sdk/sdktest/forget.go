package sdktest

import (
	"encoding/json"
	"maps"
	"net/http"
	"strconv"
	"time"

	"github.com/rampart-security/rampart/internal/agent"
)

// ForgetAnswer tells a service what its caches must not serve any more.
type ForgetAnswer = agent.ForgetAnswer

// rotating is what changes while a service runs.
type rotating struct {
	current map[string]agent.SecretValue
	later   map[string]agent.SecretValue
	told    []ForgetAnswer // the id of each is its place, from 1
	news    chan struct{}  // closed when told grows
	done    uint64         // all up to it the service has forgotten
	inUse   map[string]map[string]int
}

// Rotate makes a secret another one from now on, with the next version, and tells
// the service so. user goes with it; "" is none.
func (a *Agent) Rotate(name, user string, value []byte) {
	a.Replace(name, user, value)
	a.Tell(ForgetAnswer{Secrets: []string{name}})
}

// Replace is Rotate without telling the service.
func (a *Agent) Replace(name, user string, value []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.rotating.current == nil {
		a.rotating.current = map[string]agent.SecretValue{}
	}
	a.rotating.current[name] = agent.SecretValue{Value: value, User: user, Version: max(a.valueLocked(name).Version, 1) + 1}
}

// Later is Replace that a service notices only when it says that what it was given
// does not work: a sidecar to which the news has not come.
func (a *Agent) Later(name, user string, value []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.rotating.later == nil {
		a.rotating.later = map[string]agent.SecretValue{}
	}
	a.rotating.later[name] = agent.SecretValue{Value: value, User: user, Version: max(a.valueLocked(name).Version, 1) + 1}
}

// refusedLocked brings what Later has of a secret into force.
func (a *Agent) refusedLocked(name string) {
	if v, ok := a.rotating.later[name]; ok {
		if a.rotating.current == nil {
			a.rotating.current = map[string]agent.SecretValue{}
		}
		a.rotating.current[name] = v
		delete(a.rotating.later, name)
	}
}

// valueLocked is what a secret is now.
func (a *Agent) valueLocked(name string) agent.SecretValue {
	if v, ok := a.rotating.current[name]; ok {
		return v
	}
	if b, ok := a.Secrets[name]; ok {
		return agent.SecretValue{Value: b, Version: 1}
	}
	return agent.SecretValue{}
}

// Tell has the service forget something.
func (a *Agent) Tell(what ForgetAnswer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.rotating.told = append(a.rotating.told, what)
	if a.rotating.news != nil {
		close(a.rotating.news)
		a.rotating.news = nil
	}
}

// Forgotten reports whether the service has carried out all that it was told.
func (a *Agent) Forgotten() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.rotating.done >= uint64(len(a.rotating.told))
}

// InUse returns the oldest version of each secret that the service said to use.
func (a *Agent) InUse() map[string]int {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := map[string]int{}
	for _, versions := range a.rotating.inUse {
		for name, v := range versions {
			if old, ok := out[name]; !ok || v < old {
				out[name] = v
			}
		}
	}
	return out
}

func (a *Agent) forget(w http.ResponseWriter, r *http.Request) {
	after, err := strconv.ParseUint(r.URL.Query().Get("after"), 10, 32)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	timeout := time.NewTimer(25 * time.Second)
	defer timeout.Stop()
	a.mu.Lock()
	a.rotating.done = max(a.rotating.done, after)
	for after >= uint64(len(a.rotating.told)) {
		if a.rotating.news == nil {
			a.rotating.news = make(chan struct{})
		}
		news := a.rotating.news
		a.mu.Unlock()
		select {
		case <-news:
		case <-timeout.C:
			json.NewEncoder(w).Encode(ForgetAnswer{ID: after})
			return
		case <-r.Context().Done():
			return
		}
		a.mu.Lock()
	}
	out := a.rotating.told[after]
	out.ID = after + 1
	a.mu.Unlock()
	json.NewEncoder(w).Encode(out)
}

func (a *Agent) report(w http.ResponseWriter, r *http.Request) {
	var q agent.SecretsInUse
	if !read(w, r, &q) {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.rotating.inUse == nil {
		a.rotating.inUse = map[string]map[string]int{}
	}
	a.rotating.inUse[q.Process] = maps.Clone(q.Versions)
	w.WriteHeader(http.StatusNoContent)
}

func (a *Agent) dbCert(w http.ResponseWriter, r *http.Request) {
	var q agent.DBCertRequest
	if !read(w, r, &q) {
		return
	}
	if a.DBCert == nil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	chain, err := a.DBCert(r.PathValue("store"), q.CSR)
	if err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	json.NewEncoder(w).Encode(agent.DBCert{Chain: chain})
}
