package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/ed25519"
	"errors"
	"io"
	"maps"
	"strings"
	"time"

	"github.com/rampart-security/rampart/authz/pap"
	"github.com/rampart-security/rampart/internal/jws"
)

// earlyLeeway is how far a bundle's date may lie ahead of this machine's clock.
const earlyLeeway = 5 * time.Minute

// Floor is the newest bundle that was ever active in one place: nothing older
// becomes active there again. The zero Floor is that of a place that had none.
type Floor struct {
	Version uint64 `json:"version"`
	Digest  string `json:"digest"` // of its manifest
}

// Trust is what a bundle is judged by.
type Trust struct {
	System string // trust domain that it must be of
	Keys   Keys   // one of them must have signed it
	Floor  Floor
	Now    time.Time
}

// Open reads a bundle and checks all of it: signature first, then whose it is,
// its dates and version, then every file. The bundle of the floor itself is
// accepted. The error is an *Error. Nothing from r is believed, and at most
// MaxPacked bytes of it are read.
func Open(r io.Reader, t Trust) (*Bundle, error) {
	raw, err := io.ReadAll(io.LimitReader(r, MaxPacked+1))
	if err != nil {
		return nil, refuse(CodeFormat, "read: %w", err)
	}
	if len(raw) > MaxPacked {
		return nil, refuse(CodeSize, "larger than %d bytes", MaxPacked)
	}
	b, err := open(raw, t)
	if err != nil {
		return nil, err
	}
	b.Raw = raw
	return b, nil
}

func open(raw []byte, t Trust) (*Bundle, error) {
	in, err := newEntries(raw)
	if err != nil {
		return nil, err
	}
	manifest, err := in.named(manifestName, MaxFile, CodeFormat)
	if err != nil {
		return nil, err
	}
	signature, err := in.named(signName, maxSignature, CodeUnsigned)
	if err != nil {
		return nil, err
	}
	b := &Bundle{Digest: hash(manifest)}
	if b.KeyID, err = verify(manifest, signature, t.Keys); err != nil {
		return nil, err
	}
	if err := jws.Decode(manifest, &b.Manifest, maxDepth, true); err != nil {
		return nil, refuse(CodeFormat, "manifest: %w", err)
	}
	if err := b.judge(t); err != nil {
		return nil, err
	}
	files, err := in.listed(b.Files)
	if err != nil {
		return nil, err
	}
	return b, b.read(files)
}

// Content reads a bundle of which the caller has the manifest's digest from a
// place that it trusts, such as its own sealed store: what was signed long ago,
// to ship it again. Every file is checked against the manifest. It is no way to
// take policies in: those have a signature.
func Content(raw []byte, digest string) (pap.Set, error) {
	in, err := newEntries(raw)
	if err != nil {
		return pap.Set{}, err
	}
	manifest, err := in.named(manifestName, MaxFile, CodeFormat)
	if err == nil && hash(manifest) != digest {
		err = refuse(CodeAltered, "the manifest is another")
	}
	if err == nil {
		_, err = in.named(signName, maxSignature, CodeUnsigned)
	}
	if err != nil {
		return pap.Set{}, err
	}
	b := &Bundle{}
	if err := jws.Decode(manifest, &b.Manifest, maxDepth, true); err != nil {
		return pap.Set{}, refuse(CodeFormat, "manifest: %w", err)
	}
	files, err := in.listed(b.Files)
	if err != nil {
		return pap.Set{}, err
	}
	err = b.read(files)
	return b.Set, err
}

// Claimed returns the system that a bundle says it is of. Nothing of it is
// verified: Open does that.
func Claimed(r io.Reader) (string, error) {
	raw, err := io.ReadAll(io.LimitReader(r, MaxPacked))
	if err != nil {
		return "", refuse(CodeFormat, "read: %w", err)
	}
	m, err := claimed(raw)
	return m.System, err
}

// claimed reads a manifest that nobody has verified.
func claimed(raw []byte) (Manifest, error) {
	in, err := newEntries(raw)
	if err != nil {
		return Manifest{}, err
	}
	text, err := in.named(manifestName, MaxFile, CodeFormat)
	if err != nil {
		return Manifest{}, err
	}
	var m Manifest
	if err := jws.Decode(text, &m, maxDepth, true); err != nil {
		return Manifest{}, refuse(CodeFormat, "manifest: %w", err)
	}
	return m, nil
}

// verify checks the signature over the manifest and returns the kid.
func verify(manifest, signature []byte, keys Keys) (string, error) {
	c, err := jws.Split(string(signature), maxSignature)
	if err != nil {
		return "", refuse(CodeSignature, "signature: %w", err)
	}
	var h signHeader
	if err := jws.Decode(c.Header, &h, maxDepth, true); err != nil {
		return "", refuse(CodeSignature, "signature: header: %w", err)
	}
	if h.Algorithm != "EdDSA" || h.Type != signType || len(c.Payload) != 0 {
		return "", refuse(CodeSignature, "signature: want alg EdDSA, typ %s and a detached payload", signType)
	}
	key, ok := keys[h.KeyID]
	if !ok {
		return "", refuse(CodeKey, "signed by the key %.64q, and the keys that may sign policies are: %s", h.KeyID, keys.ids())
	}
	protected := strings.TrimSuffix(c.Signed, ".")
	if len(key) != ed25519.PublicKeySize || !ed25519.Verify(key, signedText(protected, manifest), c.Signature) {
		return "", refuse(CodeSignature, "the signature is not that of the manifest")
	}
	return h.KeyID, nil
}

// judge decides whether this bundle may be used here and now.
func (b *Bundle) judge(t Trust) error {
	m := b.Manifest
	switch {
	case m.Format != format || m.Version == 0:
		return refuse(CodeFormat, "manifest: format %.32q, version %d: want %s and a version from 1 on", m.Format, m.Version, format)
	case m.System != t.System || m.System == "":
		return refuse(CodeSystem, "of system %.200q, not of %q", m.System, t.System)
	case m.Version < t.Floor.Version:
		return refuse(CodeRollback, "version %d is older than version %d, which was active here", m.Version, t.Floor.Version)
	case m.Version == t.Floor.Version && b.Digest != t.Floor.Digest:
		return refuse(CodeRollback, "another bundle of version %d was active here", m.Version)
	case m.Created.After(t.Now.Add(earlyLeeway)):
		return refuse(CodeNotYet, "version %d is dated %s, which is ahead of this machine's clock", m.Version, m.Created.Format(time.RFC3339))
	case !t.Now.Before(m.Expires):
		return refuse(CodeExpired, "version %d expired at %s", m.Version, m.Expires.Format(time.RFC3339))
	}
	return nil
}

// read takes the set out of the files, all of which are listed and as signed.
func (b *Bundle) read(files map[string][]byte) error {
	text, ok := files[setName]
	if !ok {
		return refuse(CodeMissing, "there is no %s", setName)
	}
	if err := jws.Decode(text, &b.Set, maxDepth, true); err != nil {
		return refuse(CodeFormat, "%s: %w", setName, err)
	}
	delete(files, setName)
	b.Set.Files = map[string][]byte{}
	for name, content := range files {
		short, ok := strings.CutPrefix(name, filesFolder)
		if !ok {
			return refuse(CodeName, "%.200q is neither %s nor below %s", name, setName, filesFolder)
		}
		b.Set.Files[short] = content
	}
	return b.complete()
}

// complete refuses a set that names what is not there: a policy without its
// text would permit nothing, and forbid nothing.
func (b *Bundle) complete() error {
	for name := range named(b.Set) {
		if _, ok := b.Set.Files[name]; !ok {
			return refuse(CodeMissing, "%.200q is named by the set and not in the bundle", name)
		}
	}
	return nil
}

// named lists the files that a set speaks of.
func named(s pap.Set) map[string]bool {
	out := map[string]bool{}
	if s.Model != "" {
		out[s.Model] = true
	}
	for _, svc := range s.Services {
		for _, name := range append(append([]string(nil), svc.Policy...), svc.Tests...) {
			out[name] = true
		}
	}
	return out
}

// entries reads an archive entry by entry.
type entries struct {
	tar    *tar.Reader
	rest   io.Reader // what the archive is read from, bounded
	behind *bytes.Reader
}

func newEntries(raw []byte) (*entries, error) {
	packed := bytes.NewReader(raw)
	gz, err := gzip.NewReader(packed)
	if err != nil {
		return nil, refuse(CodeFormat, "not a gzip file: %w", err)
	}
	gz.Multistream(false)
	// Room for every entry's header and padding beside its content.
	bounded := &bounded{r: gz, left: MaxUnpacked + (MaxFiles+4)*2048}
	return &entries{tar.NewReader(bounded), bounded, packed}, nil
}

// errSize tells that the archive unpacks to more than it may.
var errSize = errors.New("it unpacks to more than is allowed")

// bounded fails instead of reading on, so that a small file cannot unpack to a
// large one.
type bounded struct {
	r    io.Reader
	left int
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errSize
	}
	n, err := b.r.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

func broken(err error) *Error {
	if errors.Is(err, errSize) {
		return refuse(CodeSize, "%w", err)
	}
	return refuse(CodeFormat, "archive: %w", err)
}

// next returns the header of the next entry, which is a plain file.
func (e *entries) next() (*tar.Header, error) {
	h, err := e.tar.Next()
	if errors.Is(err, io.EOF) {
		return nil, io.EOF
	}
	if errors.Is(err, tar.ErrInsecurePath) {
		return nil, refuse(CodeName, "%.200q leads out of the bundle", h.Name)
	}
	if err != nil {
		return nil, broken(err)
	}
	if h.Typeflag != tar.TypeReg || !plainName(h.Name) {
		return nil, refuse(CodeName, "%.200q is not a plain file below the bundle", h.Name)
	}
	return h, nil
}

// named reads the next entry, which must have this name.
func (e *entries) named(name string, limit int, absent Code) ([]byte, error) {
	h, err := e.next()
	if errors.Is(err, io.EOF) || err == nil && h.Name != name {
		return nil, refuse(absent, "%s is missing, or not where it belongs", name)
	}
	if err != nil {
		return nil, err
	}
	return e.content(h, limit)
}

func (e *entries) content(h *tar.Header, limit int) ([]byte, error) {
	if h.Size > int64(limit) {
		return nil, refuse(CodeSize, "%.200s is larger than %d bytes", h.Name, limit)
	}
	b, err := io.ReadAll(io.LimitReader(e.tar, int64(limit)+1))
	if err != nil {
		return nil, broken(err)
	}
	return b, nil
}

// listed reads the rest of the archive: the files of the list and no other,
// each once and as the list says.
func (e *entries) listed(list map[string]File) (map[string][]byte, error) {
	if len(list) > MaxFiles {
		return nil, refuse(CodeSize, "more than %d files", MaxFiles)
	}
	out := map[string][]byte{}
	for {
		h, err := e.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if err := e.take(h, list, out); err != nil {
			return nil, err
		}
	}
	for name := range maps.Keys(list) {
		if _, ok := out[name]; !ok {
			return nil, refuse(CodeMissing, "%.200q is listed and not there", name)
		}
	}
	return out, e.end()
}

func (e *entries) take(h *tar.Header, list map[string]File, out map[string][]byte) error {
	want, ok := list[h.Name]
	if !ok {
		return refuse(CodeUnlisted, "%.200q is not in the manifest", h.Name)
	}
	if _, twice := out[h.Name]; twice {
		return refuse(CodeDuplicate, "%.200q is there twice", h.Name)
	}
	b, err := e.content(h, MaxFile)
	if err != nil {
		return err
	}
	if len(b) != want.Size || hash(b) != want.SHA256 {
		return refuse(CodeAltered, "%.200q is not what the manifest says", h.Name)
	}
	out[h.Name] = b
	return nil
}

// end reads to the end, so that the checksum of gzip counts, and refuses what
// is hidden behind the archive.
func (e *entries) end() error {
	buf := make([]byte, 4096)
	for {
		n, err := e.rest.Read(buf)
		if len(bytes.Trim(buf[:n], "\x00")) > 0 {
			return refuse(CodeUnlisted, "something stands behind the archive")
		}
		if errors.Is(err, io.EOF) && e.behind.Len() > 0 {
			return refuse(CodeUnlisted, "something stands behind the gzip stream")
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return broken(err)
		}
	}
}
