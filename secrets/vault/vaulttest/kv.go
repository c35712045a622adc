package vaulttest

import (
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

const maxVersions = 10 // that are kept, as by default

// kv is a KV engine, version 2.
type kv struct{ secrets map[string]*kvSecret }

func newKV() *kv { return &kv{map[string]*kvSecret{}} }

type kvSecret struct {
	created, updated time.Time
	versions         []*kvVersion // of which the first has the number oldest
	oldest           int
	deleteAfter      time.Duration
}

type kvVersion struct {
	number           int
	data             any
	created, deleted time.Time
	destroyed        bool
}

func (k *kv) serve(s *Server, c *call) *response {
	area, path, _ := strings.Cut(c.path, "/")
	sec := k.secrets[path]
	switch c.op + " " + area {
	case "read config", "write config":
		return &response{data: map[string]any{"max_versions": 0, "cas_required": false, "delete_version_after": "0s"}}
	case "read data":
		return k.read(s, c, sec)
	case "write data":
		return k.write(s, c, path, sec)
	case "delete data":
		return each(sec, []int{sec.newest()}, func(v *kvVersion) { v.deleted = s.now() })
	case "write delete":
		return each(sec, c.numbers("versions"), func(v *kvVersion) { v.deleted = s.now() })
	case "write undelete":
		return each(sec, c.numbers("versions"), func(v *kvVersion) { v.deleted = time.Time{} })
	case "write destroy":
		return each(sec, c.numbers("versions"), func(v *kvVersion) { v.data, v.destroyed = nil, true })
	case "read metadata":
		return sec.metadata()
	case "list metadata":
		return k.list(path)
	case "delete metadata":
		delete(k.secrets, path)
		return &response{}
	case "write metadata":
		if sec == nil {
			sec = &kvSecret{created: s.now(), updated: s.now(), oldest: 1}
			k.secrets[path] = sec
		}
		sec.deleteAfter = c.duration("delete_version_after", sec.deleteAfter)
		return &response{}
	}
	return fail(http.StatusNotFound, "unsupported path")
}

func (c *call) numbers(name string) []int {
	var out []int
	for _, t := range c.list(name) {
		n, _ := strconv.Atoi(t)
		out = append(out, n)
	}
	return out
}

func (k *kvSecret) newest() int {
	if k == nil {
		return 0
	}
	return k.oldest + len(k.versions) - 1
}

func (k *kvSecret) version(n int) *kvVersion {
	if k == nil || n < k.oldest || n > k.newest() {
		return nil
	}
	return k.versions[n-k.oldest]
}

// each does something to the versions that are there; Vault does not mind the others.
func each(sec *kvSecret, numbers []int, do func(*kvVersion)) *response {
	for _, n := range numbers {
		if v := sec.version(n); v != nil {
			do(v)
		}
	}
	return &response{}
}

func (v *kvVersion) about() map[string]any {
	out := map[string]any{"version": v.number, "created_time": stamp(v.created), "deletion_time": "", "destroyed": v.destroyed, "custom_metadata": nil}
	if !v.deleted.IsZero() {
		out["deletion_time"] = stamp(v.deleted)
	}
	return out
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

func (k *kv) read(s *Server, c *call, sec *kvSecret) *response {
	n, err := strconv.Atoi(c.r.URL.Query().Get("version"))
	if err != nil || n == 0 {
		n = sec.newest()
	}
	v := sec.version(n)
	if v == nil {
		return notFound()
	}
	gone := v.destroyed || !v.deleted.IsZero() && !s.now().Before(v.deleted)
	if gone { // 404, and yet with what is known of it
		return &response{status: http.StatusNotFound, data: map[string]any{"data": nil, "metadata": v.about()}}
	}
	return &response{data: map[string]any{"data": v.data, "metadata": v.about()}}
}

func (k *kv) write(s *Server, c *call, path string, sec *kvSecret) *response {
	options, _ := c.body["options"].(map[string]any)
	data, ok := c.body["data"].(map[string]any)
	if !ok {
		return fail(http.StatusBadRequest, "no data provided")
	}
	if cas, ok := options["cas"].(float64); ok && int(cas) != sec.newest() {
		return fail(http.StatusBadRequest, "check-and-set parameter did not match the current version")
	}
	if path == "" || strings.HasSuffix(path, "/") {
		return fail(http.StatusBadRequest, "missing path")
	}
	if sec == nil {
		sec = &kvSecret{created: s.now(), oldest: 1}
		k.secrets[path] = sec
	}
	v := &kvVersion{number: sec.newest() + 1, data: data, created: s.now()}
	if sec.deleteAfter > 0 {
		v.deleted = v.created.Add(sec.deleteAfter)
	}
	sec.updated = s.now()
	if sec.versions = append(sec.versions, v); len(sec.versions) > maxVersions {
		sec.versions, sec.oldest = sec.versions[1:], sec.oldest+1
	}
	return &response{data: v.about()}
}

func (k *kvSecret) metadata() *response {
	if k == nil {
		return notFound()
	}
	versions := map[string]any{}
	for _, v := range k.versions {
		about := v.about()
		delete(about, "version")
		delete(about, "custom_metadata")
		versions[strconv.Itoa(v.number)] = about
	}
	return &response{data: map[string]any{
		"current_version": k.newest(), "oldest_version": k.oldest, "created_time": stamp(k.created), "updated_time": stamp(k.updated),
		"max_versions": 0, "cas_required": false, "delete_version_after": k.deleteAfter.String(), "custom_metadata": nil, "versions": versions,
	}}
}

func (k *kv) list(folder string) *response {
	if folder != "" && !strings.HasSuffix(folder, "/") {
		folder += "/"
	}
	keys := map[string]bool{}
	for path := range k.secrets {
		if rest, ok := strings.CutPrefix(path, folder); ok {
			name, _, below := strings.Cut(rest, "/")
			if below {
				name += "/"
			}
			keys[name] = true
		}
	}
	if len(keys) == 0 {
		return notFound()
	}
	return &response{data: map[string]any{"keys": slices.Sorted(maps.Keys(keys))}}
}
