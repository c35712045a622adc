// Package embedded keeps secrets in Rampart's own database, each sealed under
// a key that never leaves a file of its own. It is the default where there is
// no vault.
package embedded

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/secrets"
)

// control is the id of this control in rampart.yaml and in errors.
const control = "secret.manager"

const (
	keySize  = 32
	headV1   = "rampart-kek-v1 "
	headV2   = "rampart-kek-v2 "
	maxFile  = 16 << 10 // bytes of a key file
	maxKeys  = 100      // in it
	maxPlain = 4096     // bytes that are wrapped; no key has as many
	wrapV1   = 0x01
	wrapV2   = 0x02
	overhead = 1 + 12 + 16 // version, nonce, tag
)

// FileKEK is a key encryption key in a file, and in the memory of this process.
// Safe for concurrent use.
type FileKEK struct {
	path string

	rotating sync.Mutex                // held while the file changes
	keys     atomic.Pointer[[]fileKey] // by version, from 1 on; the last one wraps
}

// fileKey is one version.
type fileKey struct {
	aead cipher.AEAD
	id   string
}

var _ secrets.KEK = (*FileKEK)(nil)

// OpenKEK opens the key file at path and creates it, with mode 0600 and 32
// random bytes, when it is missing. The file has a line of text for each version
// of the key: format, number from 2 on, key and checksum. It is refused when
// anybody but this user could have read or written it.
//
// Who loses the file loses all that is sealed under it.
func OpenKEK(path string) (*FileKEK, error) {
	raw, err := readKeys(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err = createKey(path); err == nil {
			raw, err = readKeys(path)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("key file %s: %w", path, err)
	}
	k := &FileKEK{path: path}
	if err := k.use(raw); err != nil {
		return nil, fmt.Errorf("key file %s: %w", path, err)
	}
	return k, nil
}

// use puts keys in force and wipes them.
func (k *FileKEK) use(raw [][]byte) error {
	keys := make([]fileKey, len(raw))
	for i, key := range raw {
		aead, err := newGCM(key)
		if err != nil {
			return err
		}
		id := sha256.Sum256(append([]byte("rampart-kek-id-v1\n"), key...))
		keys[i] = fileKey{aead, "local:" + hex.EncodeToString(id[:8])}
		clear(key)
	}
	k.keys.Store(&keys)
	return nil
}

// Rotate adds a new key to the file, which wraps from now on. The ones before it
// stay and open what they wrapped. The file is replaced in one step, so that
// after a crash the old or the new one is there, whole.
func (k *FileKEK) Rotate() error {
	k.rotating.Lock()
	defer k.rotating.Unlock()
	if err := k.rotate(); err != nil {
		return fmt.Errorf("key file %s: %w", k.path, err)
	}
	return nil
}

func (k *FileKEK) rotate() error {
	raw, err := readKeys(k.path)
	if err != nil {
		return err
	}
	if len(raw) >= maxKeys {
		return fmt.Errorf("it holds %d keys already", len(raw))
	}
	key := make([]byte, keySize)
	rand.Read(key)
	raw = append(raw, key)
	data := formatKeys(raw)
	defer clear(data)
	name, err := writeBeside(k.path, data)
	if err != nil {
		return err
	}
	if err := os.Rename(name, k.path); err != nil {
		os.Remove(name)
		return err
	}
	if err := syncFolder(filepath.Dir(k.path)); err != nil {
		return err
	}
	return k.use(raw)
}

func newGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// KeyID implements secrets.KEK: each key of the file has an id of its own.
func (k *FileKEK) KeyID() string {
	keys := *k.keys.Load()
	return keys[len(keys)-1].id
}

// String is KeyID.
func (k *FileKEK) String() string { return k.KeyID() }

// GoString is KeyID.
func (k *FileKEK) GoString() string { return k.KeyID() }

// Wrap implements secrets.KEK, for at most 4096 bytes. It returns head || nonce
// || ciphertext || tag, where the head is 0x01 of the first key of the file, and
// 0x02 || number, u32 big endian, of later ones.
func (k *FileKEK) Wrap(_ context.Context, dek, aad []byte) ([]byte, error) {
	if len(dek) == 0 || len(dek) > maxPlain {
		return nil, rampart.Errorf(rampart.Internal, control, "a key to wrap has 1 to %d bytes", maxPlain)
	}
	keys := *k.keys.Load()
	head := headOf(len(keys))
	return keys[len(keys)-1].aead.Seal(head, nil, dek, append(headOf(len(keys)), aad...)), nil
}

func headOf(version int) []byte {
	if version == 1 {
		return []byte{wrapV1}
	}
	return binary.BigEndian.AppendUint32([]byte{wrapV2}, uint32(version))
}

// Unwrap implements secrets.KEK.
func (k *FileKEK) Unwrap(_ context.Context, wrapped, aad []byte) ([]byte, error) {
	keys, version := *k.keys.Load(), 1
	if len(wrapped) > 5 && wrapped[0] == wrapV2 {
		version = int(min(binary.BigEndian.Uint32(wrapped[1:]), maxKeys+1))
	}
	if version < 1 || version > len(keys) {
		return nil, rampart.Errorf(rampart.Internal, control, "the key file has no key that wrapped this: was it put back from before a rotation?")
	}
	head := headOf(version)
	if len(wrapped) < overhead || !bytes.HasPrefix(wrapped, head) {
		return nil, rampart.Errorf(rampart.Internal, control, "wrapped key is not in a known format")
	}
	dek, err := keys[version-1].aead.Open(nil, nil, wrapped[len(head):], append(head[:len(head):len(head)], aad...))
	if err != nil {
		return nil, rampart.Errorf(rampart.Internal, control, "wrapped key does not open under %s", keys[version-1].id)
	}
	return dek, nil
}

func readKeys(path string) ([][]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if err := checkPrivate(info); err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return nil, err
	}
	defer clear(data)
	return parseKeys(data)
}

func checkPrivate(info fs.FileInfo) error {
	sys, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.Mode().IsRegular():
		return errors.New("is not a regular file")
	case !ok:
		return errors.New("its owner cannot be determined on this system")
	case int(sys.Uid) != os.Geteuid():
		return fmt.Errorf("belongs to user %d, not to %d who runs this", sys.Uid, os.Geteuid())
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("is open to other users (mode %#o): run chmod 600 on it and replace the key if others may have read it", info.Mode().Perm())
	}
	return nil
}

// formatKeys and parseKeys are inverse. The checksums find a damaged file before
// something is sealed under a wrong key.
func formatKeys(keys [][]byte) []byte {
	var out []byte
	for i, key := range keys {
		head := headV1
		if i > 0 {
			head = fmt.Sprintf("%s%d ", headV2, i+1)
		}
		out = fmt.Appendf(out, "%s%s %x\n", head, base64.StdEncoding.EncodeToString(key), checksum(head, key))
	}
	return out
}

func parseKeys(data []byte) ([][]byte, error) {
	if !bytes.HasPrefix(data, []byte(headV1)) {
		return nil, errors.New("is not a key file of a known version")
	}
	var keys [][]byte
	for line := range bytes.Lines(data) {
		words := bytes.Split(bytes.TrimSuffix(line, []byte("\n")), []byte(" "))
		key := make([]byte, base64.StdEncoding.DecodedLen(len(line)))
		n, err := base64.StdEncoding.Decode(key, words[min(len(words)-1, 1+min(len(keys), 1))])
		if err != nil || n != keySize || len(keys) == maxKeys {
			return nil, errors.New("is damaged: it does not hold keys of 32 bytes")
		}
		keys = append(keys, key[:n])
	}
	if subtle.ConstantTimeCompare(formatKeys(keys), data) != 1 {
		return nil, errors.New("is damaged: its checksum does not fit")
	}
	return keys, nil
}

func checksum(head string, key []byte) []byte {
	sum := sha256.Sum256(append([]byte(head), key...))
	return sum[:8]
}

// createKey puts a new key at path in one step: after a crash there is a whole
// file or none. When another process is faster, its key stays.
func createKey(path string) error {
	key := make([]byte, keySize)
	defer clear(key)
	rand.Read(key)
	name, err := writeBeside(path, formatKeys([][]byte{key}))
	if err != nil {
		return err
	}
	defer os.Remove(name)
	if err := os.Link(name, path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncFolder(filepath.Dir(path))
}

// writeBeside writes a file with mode 0600 into the folder of path, durably, and
// returns its name.
func writeBeside(path string, data []byte) (name string, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".kek-") // mode 0600
	if err != nil {
		return "", err
	}
	defer f.Close()
	if _, err = f.Write(data); err == nil {
		err = f.Sync()
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return f.Name(), err
}

func syncFolder(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
