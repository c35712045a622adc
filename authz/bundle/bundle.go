// Package bundle ships policies: one signed file that holds everything which
// decisions of a system rest on, and how a plane takes a new one over.
//
// The file is a tar archive in gzip:
//
//	manifest.json   Manifest: version, dates, SHA-256 and size of every other file
//	manifest.jws    compact JWS with detached payload over manifest.json (RFC 7515
//	                appendix F; alg EdDSA, kid the RFC 7638 thumbprint of the key)
//	set.json        pap.Set
//	files/NAME      every file that the set names
//
// Manifest and signature come first, so that nothing is unpacked that is not
// signed. There is no way to take a bundle without a signature.
package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/rampart-security/rampart/authz/pap"
)

// Bounds of a bundle, all enforced while it is read.
const (
	MaxPacked   = 32 << 20 // bytes of the file
	MaxUnpacked = 48 << 20 // bytes of all entries
	MaxFile     = 4 << 20  // bytes of one entry
	MaxFiles    = 4096     // entries
)

const (
	format       = "rampart-bundle-1"
	manifestName = "manifest.json"
	signName     = "manifest.jws"
	setName      = "set.json"
	filesFolder  = "files/"
	signType     = "rampart-bundle+jws"
	maxSignature = 4096
	maxDepth     = 16
)

// Manifest says what a bundle is. It is what the signature covers.
type Manifest struct {
	Format  string          `json:"format"`
	System  string          `json:"system"`  // trust domain of the system
	Version uint64          `json:"version"` // grows by one with each bundle of the system; from 1
	Created time.Time       `json:"created"`
	Expires time.Time       `json:"expires"`
	Schema  string          `json:"schema"` // SHA-256 of the schema, hex: two bundles of one schema speak of the same types
	Files   map[string]File `json:"files"`
}

// File is one entry of a bundle.
type File struct {
	SHA256 string `json:"sha256"` // hex
	Size   int    `json:"size"`   // bytes
}

// Bundle is an opened bundle: signed by a trusted key, in date, complete.
type Bundle struct {
	Manifest
	Set    pap.Set
	Digest string // SHA-256 of the manifest, hex
	KeyID  string // kid of the key that signed
	Raw    []byte // the file as it came
}

// Stamp dates a bundle.
type Stamp struct {
	System  string // trust domain
	Version uint64
	Created time.Time
	Expires time.Time
}

// Draft is a bundle without its signature.
type Draft struct {
	Manifest Manifest
	manifest []byte
	files    map[string][]byte
}

// Build makes the bundle of a set. The same set and stamp make the same bundle.
func Build(set pap.Set, s Stamp) (Draft, error) {
	if s.System == "" || s.Version == 0 || !s.Expires.After(s.Created) {
		return Draft{}, errors.New("bundle: a bundle needs a system, a version from 1 on, and an end after its beginning")
	}
	files, err := contents(set)
	if err != nil {
		return Draft{}, fmt.Errorf("bundle: %w", err)
	}
	schema, err := json.Marshal(set.Schema)
	if err != nil {
		return Draft{}, fmt.Errorf("bundle: schema: %w", err)
	}
	m := Manifest{
		Format: format, System: s.System, Version: s.Version, Created: s.Created.UTC().Truncate(time.Second), Expires: s.Expires.UTC().Truncate(time.Second),
		Schema: hash(schema), Files: map[string]File{},
	}
	for name, b := range files {
		m.Files[name] = File{hash(b), len(b)}
	}
	text, err := json.Marshal(m)
	if err != nil {
		return Draft{}, fmt.Errorf("bundle: %w", err)
	}
	return Draft{m, text, files}, nil
}

// contents returns the entries of a set by their names in the archive.
func contents(set pap.Set) (map[string][]byte, error) {
	text, err := json.Marshal(set)
	if err != nil {
		return nil, err
	}
	out := map[string][]byte{setName: text}
	total := 0
	for name, b := range set.Files {
		if !plainName(name) {
			return nil, fmt.Errorf("%.200q is not the name of a file in a bundle", name)
		}
		out[filesFolder+name] = b
	}
	for name, b := range out {
		if total += len(b); len(b) > MaxFile || total > MaxUnpacked || len(out) > MaxFiles {
			return nil, fmt.Errorf("%.200s is larger than %d bytes, or there are more than %d files or %d bytes in all", name, MaxFile, MaxFiles, MaxUnpacked)
		}
	}
	return out, nil
}

// SetDigest names the content of a set, whatever version it is shipped as.
func SetDigest(set pap.Set) (string, error) {
	files, err := contents(set)
	if err != nil {
		return "", fmt.Errorf("bundle: %w", err)
	}
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		fmt.Fprintf(h, "%s %q\n", hash(files[name]), name)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// Sign signs the draft and returns the file.
func (d Draft) Sign(key ed25519.PrivateKey) ([]byte, error) {
	if len(key) != ed25519.PrivateKeySize || d.manifest == nil {
		return nil, errors.New("bundle: an Ed25519 private key and a draft made by Build are required")
	}
	public, _ := key.Public().(ed25519.PublicKey)
	header, err := json.Marshal(signHeader{Algorithm: "EdDSA", KeyID: KeyID(public), Type: signType})
	if err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	protected := base64.RawURLEncoding.EncodeToString(header)
	signature := ed25519.Sign(key, signedText(protected, d.manifest))
	return pack(d.manifest, []byte(protected+".."+base64.RawURLEncoding.EncodeToString(signature)), d.files)
}

// signHeader is the protected header. Nothing else may be in it.
type signHeader struct {
	Algorithm string `json:"alg"`
	KeyID     string `json:"kid"`
	Type      string `json:"typ"`
}

// signedText is what the signature covers: RFC 7515 section 5.1, step 8.
func signedText(protected string, manifest []byte) []byte {
	return []byte(protected + "." + base64.RawURLEncoding.EncodeToString(manifest))
}

// pack writes the archive. Its headers say nothing but names and sizes.
func pack(manifest, signature []byte, files map[string][]byte) ([]byte, error) {
	var buf bytes.Buffer
	gz := gzip.NewWriter(&buf)
	w := tar.NewWriter(gz)
	put := func(name string, b []byte) error {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(b)), Mode: 0o600}); err != nil {
			return err
		}
		_, err := w.Write(b)
		return err
	}
	err := errors.Join(put(manifestName, manifest), put(signName, signature))
	for _, name := range slices.Sorted(maps.Keys(files)) {
		err = errors.Join(err, put(name, files[name]))
	}
	if err = errors.Join(err, w.Close(), gz.Close()); err != nil {
		return nil, fmt.Errorf("bundle: pack: %w", err)
	}
	if buf.Len() > MaxPacked {
		return nil, fmt.Errorf("bundle: larger than %d bytes", MaxPacked)
	}
	return buf.Bytes(), nil
}

// plainName accepts what names a file below a folder, in one spelling.
func plainName(name string) bool {
	return fs.ValidPath(name) && name != "." && !strings.ContainsAny(name, "\\\x00\n") && len(name) <= 512
}

func hash(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
