// Package spec answers "What is the system, and what does it promise?": it
// reads rampart.yaml, the one file that planes enforce, that the threat model
// is derived from and that verify attacks.
//
// A file is read strictly. An unknown key, a repeated key, a value of another
// type, a name that nothing declares, a literal secret: each is refused with
// its line, the rule and what to write instead. What the file does not say
// takes a safe default; Effective shows the result.
package spec

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/rampart-security/rampart"
)

// Bounds on what a system may bring along, in bytes. Load and FromBundle
// refuse what is larger.
const (
	MaxFile      = 1 << 20  // rampart.yaml
	MaxResource  = 4 << 20  // each file that it names
	MaxResources = 32 << 20 // all of them
)

// bundleName is how problems of a file without a path name it.
const bundleName = "rampart.yaml"

// Load reads a rampart.yaml and every file it names, which must lie in the
// same folder or below. The error is Problems when the file is at fault.
func Load(path string) (*System, error) {
	text, err := readFile(path)
	if err != nil {
		return nil, err
	}
	s, err := parse(path, text)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return nil, &rampart.Error{Kind: rampart.Invalid, Msg: "the folder of " + path + " cannot be opened", Err: err}
	}
	defer root.Close()
	resources := s.readResources(root)
	s.readBundles(resources)
	if err := s.source.err(); err != nil {
		return nil, err
	}
	s.bundle = NewBundle(text, resources)
	return s, nil
}

// FromBundle reads a System from bytes. It refuses a bundle whose digest is
// not that of its content, and one that lacks a file or brings one too many.
// The bundle's slices and map must not change afterwards.
func FromBundle(b Bundle) (*System, error) {
	if len(b.File) > MaxFile {
		return nil, rampart.Errorf(rampart.Invalid, "", "bundle: rampart.yaml is larger than %s", Size(MaxFile))
	}
	total := 0
	for name, content := range b.Resources {
		if total += len(content); len(content) > MaxResource || total > MaxResources {
			return nil, rampart.Errorf(rampart.Invalid, "", "bundle: %q is larger than %s, or all files are larger than %s", shorten(name), Size(MaxResource), Size(MaxResources))
		}
	}
	if subtle.ConstantTimeCompare([]byte(b.Digest), []byte(b.sum())) != 1 {
		return nil, rampart.Errorf(rampart.Invalid, "", "bundle: the digest is not that of its content")
	}
	s, err := parse(bundleName, b.File)
	if err != nil {
		return nil, err
	}
	if err := s.sameResources(b.Resources); err != nil {
		return nil, err
	}
	s.bundle = b
	return s, nil
}

// NewBundle returns a bundle of a file and the files it names, with its
// digest. It checks nothing: FromBundle does.
func NewBundle(file []byte, resources map[string][]byte) Bundle {
	b := Bundle{File: file, Resources: resources}
	b.Digest = b.sum()
	return b
}

// sum is the hex SHA-256 over the file and the resources in order of their
// names. Every part is preceded by its length, so that no two bundles share
// one input.
func (b Bundle) sum() string {
	h := sha256.New()
	io.WriteString(h, "rampart-bundle-v1\n") // hash.Hash never returns an error
	addPart(h, b.File)
	for _, name := range slices.Sorted(slices.Values(names(b.Resources))) {
		addPart(h, []byte(name))
		addPart(h, b.Resources[name])
	}
	return hex.EncodeToString(h.Sum(nil))
}

func addPart(h hash.Hash, part []byte) {
	var length [8]byte
	binary.BigEndian.PutUint64(length[:], uint64(len(part)))
	h.Write(length[:])
	h.Write(part)
}

// parse turns text into a System with every default filled in and every rule
// checked. It touches no other file.
func parse(name string, text []byte) (*System, error) {
	r := newReport(name)
	root := r.parseText(text)
	if root == nil {
		return nil, r.err()
	}
	in := &inspector{report: r}
	in.walk(root, "", 0)
	r.commentSecrets(text)
	if err := r.err(); err != nil {
		return nil, err
	}
	r.at[""] = place(root)
	s := &System{source: r}
	r.sys = s
	newDecoder(r).root(root, s)
	if !r.judgeable() {
		return nil, r.err()
	}
	s.fill()
	check(s, r)
	if err := r.err(); err != nil {
		return nil, err
	}
	s.warnings = warn(s)
	return s, nil
}

// resource is a file that rampart.yaml names, and the key that names it.
type resource struct{ key, name string }

// resources lists the files that s names, in order of their keys. One file may
// be named by several keys.
func (s *System) resources() []resource {
	var out []resource
	add := func(key, name string) {
		if name != "" {
			out = append(out, resource{key, name})
		}
	}
	for _, name := range sortedNames(s.Services) {
		svc, key := s.Services[name], join("services", name)
		add(key+".openapi", svc.OpenAPI)
		for i, p := range svc.Policy {
			add(index(key+".policy", i), p)
		}
		for i, p := range svc.Tests {
			add(index(key+".policy_tests", i), p)
		}
	}
	add("authz.model", s.Authz.Model)
	if s.Authz.OpenFGA != nil {
		add("authz.openfga.ca", s.Authz.OpenFGA.CA)
	}
	for _, name := range sortedNames(s.Stores) {
		add(join("stores", name)+".ca", s.Stores[name].CA)
	}
	for _, name := range sortedNames(s.Identity.Providers) {
		add(join("identity.providers", name)+".ca", s.Identity.Providers[name].CA)
	}
	s.trustResources(add)
	for i, f := range s.Flows {
		if f.Message != nil {
			add(index("flows", i)+".message.schema", f.Message.Schema)
		}
	}
	return out
}

// trustResources lists the certificates that trust, secrets and edge name.
func (s *System) trustResources(add func(key, name string)) {
	if k := s.Trust.Join.Kubernetes; k != nil {
		add("trust.join.kubernetes.jwks", k.JWKS)
	}
	if s.Trust.Upstream != nil {
		add("trust.upstream.roots", s.Trust.Upstream.Roots)
	}
	for _, name := range sortedNames(s.Trust.Federate) {
		add(join("trust.federate", name)+".ca", s.Trust.Federate[name].CA)
		add(join("trust.federate", name)+".bundle", s.Trust.Federate[name].Bundle)
	}
	for _, name := range sortedNames(s.Secrets) {
		add(join("secrets", name)+".ca", s.Secrets[name].CA)
	}
	for _, name := range sortedNames(s.Services) {
		if a := s.Services[name].ACME; a != nil {
			add(join("services", name)+".acme.ca", a.CA)
		}
	}
	if s.Limits != nil {
		add("limits.ca", s.Limits.CA)
	}
}

// readResources reads the files that s names and reports those it cannot read.
func (s *System) readResources(root *os.Root) map[string][]byte {
	out, total := map[string][]byte{}, 0
	for _, res := range s.resources() {
		if _, done := out[res.name]; done {
			continue
		}
		content, err := readResource(root, res.name)
		if total += len(content); err == nil && total > MaxResources {
			err = fmt.Errorf("all files together are larger than %s", Size(MaxResources))
		}
		if err != nil {
			s.source.bad(res.key, fmt.Sprintf("file %q: %v", res.name, err), "the path is relative to rampart.yaml")
			continue
		}
		out[res.name] = content
	}
	return out
}

// readBundles reports bundles of partners that have no keys. Whoever uses one
// reads it more closely.
func (s *System) readBundles(resources map[string][]byte) {
	for _, name := range sortedNames(s.Trust.Federate) {
		file := s.Trust.Federate[name].Bundle
		content, ok := resources[file]
		if !ok {
			continue // none is named, or it could not be read
		}
		var set struct{ Keys []json.RawMessage }
		if err := json.Unmarshal(content, &set); err != nil || len(set.Keys) == 0 {
			s.source.bad(join("trust.federate", name)+".bundle", fmt.Sprintf("file %q is no SPIFFE bundle", file), "put the partner's bundle there: a JSON object with keys, as its bundle endpoint serves it")
		}
	}
}

// readResource reads one file. os.Root keeps links from leading out of the
// folder.
func readResource(root *os.Root, name string) ([]byte, error) {
	info, err := root.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, errors.New("does not exist")
	case err != nil:
		return nil, errors.New("cannot be opened, or lies outside the folder")
	case !info.Mode().IsRegular():
		return nil, errors.New("is not a regular file")
	}
	f, err := root.Open(name)
	if err != nil {
		return nil, errors.New("cannot be opened")
	}
	defer f.Close()
	return readCapped(f, MaxResource)
}

func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, rampart.Errorf(rampart.NotFound, "", "%s: no such file; rampart init writes one", path)
	case err != nil:
		return nil, &rampart.Error{Kind: rampart.Invalid, Msg: path + ": cannot be opened", Err: err}
	case !info.Mode().IsRegular():
		return nil, rampart.Errorf(rampart.Invalid, "", "%s: not a regular file; name the rampart.yaml itself", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, &rampart.Error{Kind: rampart.Invalid, Msg: path + ": cannot be opened", Err: err}
	}
	defer f.Close()
	text, err := readCapped(f, MaxFile)
	if err != nil {
		return nil, rampart.Errorf(rampart.Invalid, "", "%s: %v", path, err)
	}
	return text, nil
}

func readCapped(r io.Reader, limit int64) ([]byte, error) {
	content, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, errors.New("cannot be read")
	}
	if int64(len(content)) > limit {
		return nil, fmt.Errorf("larger than %s", Size(limit))
	}
	return content, nil
}

// sameResources reports whether have holds exactly the files that s names.
func (s *System) sameResources(have map[string][]byte) error {
	named := map[string]bool{}
	for _, res := range s.resources() {
		named[res.name] = true
		if _, ok := have[res.name]; !ok {
			s.source.bad(res.key, fmt.Sprintf("file %q is not in the bundle", res.name), "make the bundle with Load")
		}
	}
	for _, name := range sortedNames(have) {
		if !named[name] {
			s.source.bad("", fmt.Sprintf("file %q is in the bundle, but no key names it", shorten(name)), "make the bundle with Load")
		}
	}
	return s.source.err()
}

// checkResource reports a path that is not a plain one below the folder, or
// whose ending nothing can read.
func (c *checker) checkResource(key, name string, endings ...string) {
	if name == "" {
		return
	}
	if !filepath.IsLocal(name) || strings.ContainsAny(name, "\\\n\t") || filepath.ToSlash(filepath.Clean(name)) != name || name == "." {
		c.bad(key, fmt.Sprintf("file %q is not a plain path inside the folder of rampart.yaml", shorten(name)), "write it relative, without .. or ./")
		return
	}
	if !slices.Contains(endings, filepath.Ext(name)) {
		c.bad(key, fmt.Sprintf("file %q has an ending that is not read here", shorten(name)), "the endings are "+strings.Join(endings, ", "))
	}
}

func sortedNames[V any](m map[string]V) []string {
	out := names(m)
	slices.Sort(out)
	return out
}
