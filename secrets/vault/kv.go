package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/secrets"
)

// usual is the field of a reference that names none.
const usual = "value"

// Bounds of List, which asks once for each folder and for each secret.
const (
	maxListed  = 1000
	maxFolders = 500
	maxDepth   = 16
)

const putAttempts = 5 // when others write the same path

// KV is the backend of a KV engine, version 2. It is also a secrets.Writer and
// secrets.Versions. A value is text: KV keeps JSON.
type KV struct {
	c     *Client
	mount string
}

var (
	_ secrets.Writer   = (*KV)(nil)
	_ secrets.Versions = (*KV)(nil)
)

// kvVersion is the metadata of one version.
type kvVersion struct {
	Version   int    `json:"version"`
	Created   string `json:"created_time"`
	Deletion  string `json:"deletion_time"` // "": it is not to be deleted; in the future: it will be
	Destroyed bool   `json:"destroyed"`
}

// kvData is one version of a secret.
type kvData struct {
	Data struct {
		Data     map[string]json.RawMessage `json:"data"`
		Metadata kvVersion                  `json:"metadata"`
	} `json:"data"`
}

// Fetch returns a field of the newest version. A field is a string, a number
// or a boolean in JSON; the last two come as they are written. Until is set
// where the engine is going to delete the version.
func (k *KV) Fetch(ctx context.Context, ref secrets.Ref) (secrets.Secret, error) {
	return k.FetchVersion(ctx, ref, 0)
}

// FetchVersion returns a field of a version; 0 is the newest.
func (k *KV) FetchVersion(ctx context.Context, ref secrets.Ref, version int) (secrets.Secret, error) {
	if err := checkPath(ref.Path); err != nil {
		return secrets.Secret{}, err
	}
	got, err := k.read(ctx, ref.Path, version)
	if err != nil {
		return secrets.Secret{}, err
	}
	defer func() {
		for _, raw := range got.Data.Data {
			clear(raw)
		}
	}()
	field := ref.Field
	if field == "" {
		field = usual
	}
	raw, ok := got.Data.Data[field]
	if !ok {
		return secrets.Secret{}, k.c.fail(rampart.NotFound, k.mount+"/"+ref.Path, errors.New("it has no field of that name"))
	}
	value, err := scalar(raw)
	if err != nil {
		return secrets.Secret{}, k.c.fail(rampart.Invalid, k.mount+"/"+ref.Path, err)
	}
	defer clear(value)
	return secrets.Make(value, secrets.Meta{Version: got.Data.Metadata.Version, Until: instant(got.Data.Metadata.Deletion)}), nil
}

// read asks for a version. The data of one that was deleted come with the error.
func (k *KV) read(ctx context.Context, path string, version int) (kvData, error) {
	r := request{method: http.MethodGet, path: k.mount + "/data/" + path}
	if version > 0 {
		r.query = url.Values{"version": {strconv.Itoa(version)}}
	}
	rep, err := k.c.ask(ctx, r)
	defer rep.wipe()
	if err != nil {
		return kvData{}, err
	}
	var got kvData
	err = k.c.verdict(r.path, rep)
	if rampart.KindOf(err) == rampart.NotFound {
		_ = json.Unmarshal(rep.body, &got) // the version of what was deleted; none, if it is not there
		return got, err
	}
	if err == nil {
		err = k.c.decode(r.path, rep, &got)
	}
	if err == nil && (got.Data.Data == nil || got.Data.Metadata.Version < 1) {
		err = k.c.fail(rampart.Unavailable, r.path, errors.New("the reply is not that of a KV engine of version 2"))
	}
	return got, err
}

// scalar is a JSON value as a secret.
func scalar(raw json.RawMessage) ([]byte, error) {
	var s string
	switch {
	case len(raw) > 0 && raw[0] == '"' && json.Unmarshal(raw, &s) == nil && s != "":
		return []byte(s), nil
	case string(raw) == `""`:
		return nil, errors.New("the field is empty")
	case len(raw) > 0 && (raw[0] == '-' || raw[0] >= '0' && raw[0] <= '9' || raw[0] == 't' || raw[0] == 'f'):
		return slices.Clone(raw), nil
	}
	return nil, errors.New("the field is neither a string nor a number: store each value under a field of its own")
}

// instant reads a time; what is none is the zero time.
func instant(text string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return time.Time{}
	}
	return t
}

// Put stores value as the usual field of the next version and keeps the other
// fields, which is why it needs to read the path, too. It writes what it read
// by compare-and-set. A value is UTF-8 and at most 512 KiB.
func (k *KV) Put(ctx context.Context, path string, value []byte, after int) (version int, err error) {
	if err := checkPath(path); err != nil {
		return 0, err
	}
	if len(value) == 0 || len(value) > maxValue || !utf8.Valid(value) {
		return 0, invalid("a secret in %s is text of 1 to %d bytes: encode others in base64", k.c.opt.Name, maxValue)
	}
	for range putAttempts {
		version, err = k.put(ctx, path, value, after)
		if after >= 0 || rampart.KindOf(err) != rampart.Conflict {
			return version, err
		}
	}
	return 0, err
}

func (k *KV) put(ctx context.Context, path string, value []byte, after int) (int, error) {
	at := k.mount + "/data/" + path
	now, err := k.read(ctx, path, 0)
	if err != nil && rampart.KindOf(err) != rampart.NotFound {
		return 0, err
	}
	newest := now.Data.Metadata.Version
	if after >= 0 && newest != after {
		return 0, k.c.fail(rampart.Conflict, at, fmt.Errorf("the newest version is %d", newest))
	}
	fields := now.Data.Data
	if fields == nil {
		fields = map[string]json.RawMessage{}
	}
	if fields[usual], err = json.Marshal(string(value)); err != nil {
		return 0, invalid("the secret cannot be written as JSON")
	}
	var out struct {
		Data kvVersion `json:"data"`
	}
	body := map[string]any{"data": fields, "options": map[string]int{"cas": newest}}
	if err := k.c.fetch(ctx, request{method: http.MethodPost, path: at, body: body}, &out); err != nil {
		return 0, err
	}
	return out.Data.Version, nil
}

// List returns what lies below a folder, at most 1000 secrets in 500 folders.
func (k *KV) List(ctx context.Context, prefix string) ([]secrets.Listed, error) {
	prefix = strings.TrimSuffix(prefix, "/")
	if prefix != "" {
		if err := checkPath(prefix); err != nil {
			return nil, err
		}
	}
	w := walk{k: k}
	if err := w.folder(ctx, prefix, 0); err != nil {
		return nil, err
	}
	slices.SortFunc(w.found, func(a, b secrets.Listed) int { return strings.Compare(a.Path, b.Path) })
	return w.found, nil
}

// walk is one List.
type walk struct {
	k       *KV
	folders int
	found   []secrets.Listed
}

func (w *walk) folder(ctx context.Context, path string, depth int) error {
	if w.folders++; w.folders > maxFolders || depth > maxDepth {
		return invalid("more than %d folders, or %d deep: list a part of them", maxFolders, maxDepth)
	}
	var out struct {
		Data struct {
			Keys []string `json:"keys"`
		} `json:"data"`
	}
	at := strings.TrimSuffix(w.k.mount+"/metadata/"+path, "/")
	err := w.k.c.fetch(ctx, request{method: http.MethodGet, path: at, query: url.Values{"list": {"true"}}}, &out)
	if rampart.KindOf(err) == rampart.NotFound && err != nil {
		return nil
	}
	if err != nil {
		return err
	}
	for _, key := range out.Data.Keys {
		if err := w.key(ctx, path, key, depth); err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) key(ctx context.Context, folder, key string, depth int) error {
	name, below := strings.CutSuffix(key, "/")
	path := strings.TrimPrefix(folder+"/"+name, "/")
	if err := checkPath(path); err != nil {
		return nil // whoever named it so cannot mean it for us
	}
	if below {
		return w.folder(ctx, path, depth+1)
	}
	if len(w.found) >= maxListed {
		return invalid("more than %d secrets: list a part of them", maxListed)
	}
	var out struct {
		Data struct {
			Current  int                  `json:"current_version"`
			Versions map[string]kvVersion `json:"versions"`
		} `json:"data"`
	}
	err := w.k.c.fetch(ctx, request{method: http.MethodGet, path: w.k.mount + "/metadata/" + path}, &out)
	if err != nil && rampart.KindOf(err) == rampart.NotFound {
		return nil // it went meanwhile
	}
	if err != nil {
		return err
	}
	created := instant(out.Data.Versions[strconv.Itoa(out.Data.Current)].Created)
	w.found = append(w.found, secrets.Listed{Path: path, Version: out.Data.Current, Created: created})
	return nil
}

// Destroy makes a version unreadable for good; 0 is all of them, their history
// included, after which versions count from 1 again. What is not there is no error.
func (k *KV) Destroy(ctx context.Context, path string, version int) error {
	if err := checkPath(path); err != nil {
		return err
	}
	r := request{method: http.MethodDelete, path: k.mount + "/metadata/" + path}
	if version > 0 {
		r = request{method: http.MethodPost, path: k.mount + "/destroy/" + path, body: map[string][]int{"versions": {version}}}
	}
	return k.c.fetch(ctx, r, nil)
}
