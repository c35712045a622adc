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
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/secrets"
)

// control is the id of this control in rampart.yaml and in errors.
const control = "secret.manager"

const (
	keySize  = 32
	fileHead = "rampart-kek-v1 "
	maxFile  = 1024 // bytes of a key file
	wrapV1   = 0x01
	overhead = 1 + 12 + 16 // version, nonce, tag
)

// OpenKEK opens the key file at path and creates it, with mode 0600 and 32
// random bytes, when it is missing. The file is one line of text: version, key
// and checksum. It is refused when anybody but this user could have read or
// written it.
//
// Who loses the file loses all that is sealed under it.
func OpenKEK(path string) (secrets.KEK, error) {
	key, err := readKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err = createKey(path); err == nil {
			key, err = readKey(path)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("key file %s: %w", path, err)
	}
	defer clear(key)
	return newKEK(key)
}

// fileKEK is a KEK in the memory of this process.
type fileKEK struct {
	aead cipher.AEAD
	id   string
}

func newKEK(key []byte) (*fileKEK, error) {
	aead, err := newGCM(key)
	if err != nil {
		return nil, err
	}
	id := sha256.Sum256(append([]byte("rampart-kek-id-v1\n"), key...))
	return &fileKEK{aead, "local:" + hex.EncodeToString(id[:8])}, nil
}

func newGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

func (k *fileKEK) KeyID() string { return k.id }

// Wrap returns 0x01 || nonce || ciphertext || tag.
func (k *fileKEK) Wrap(_ context.Context, dek, aad []byte) ([]byte, error) {
	out := make([]byte, 1, overhead+len(dek))
	out[0] = wrapV1
	return k.aead.Seal(out, nil, dek, append([]byte{wrapV1}, aad...)), nil
}

func (k *fileKEK) Unwrap(_ context.Context, wrapped, aad []byte) ([]byte, error) {
	if len(wrapped) < overhead || wrapped[0] != wrapV1 {
		return nil, rampart.Errorf(rampart.Internal, control, "wrapped key is not in a known format")
	}
	dek, err := k.aead.Open(nil, nil, wrapped[1:], append([]byte{wrapV1}, aad...))
	if err != nil {
		return nil, rampart.Errorf(rampart.Internal, control, "wrapped key does not open under %s", k.id)
	}
	return dek, nil
}

func readKey(path string) ([]byte, error) {
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
	return parseKey(data)
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

// formatKey and parseKey are inverse. The checksum finds a damaged file before
// something is sealed under a wrong key.
func formatKey(key []byte) []byte {
	sum := checksum(key)
	return fmt.Appendf(nil, "%s%s %x\n", fileHead, base64.StdEncoding.EncodeToString(key), sum)
}

func parseKey(data []byte) ([]byte, error) {
	rest, ok := bytes.CutPrefix(data, []byte(fileHead))
	if !ok {
		return nil, errors.New("is not a key file of a known version")
	}
	key := make([]byte, base64.StdEncoding.DecodedLen(len(rest)))
	text, _, _ := bytes.Cut(rest, []byte(" "))
	n, err := base64.StdEncoding.Decode(key, text)
	if err != nil || n != keySize {
		return nil, errors.New("is damaged: it does not hold a key of 32 bytes")
	}
	key = key[:n]
	if subtle.ConstantTimeCompare(formatKey(key), data) != 1 {
		return nil, errors.New("is damaged: its checksum does not fit")
	}
	return key, nil
}

func checksum(key []byte) []byte {
	sum := sha256.Sum256(append([]byte(fileHead), key...))
	return sum[:8]
}

// createKey puts a new key at path in one step: after a crash there is a whole
// file or none. When another process is faster, its key stays.
func createKey(path string) error {
	key := make([]byte, keySize)
	defer clear(key)
	if _, err := rand.Read(key); err != nil {
		return err
	}
	folder := filepath.Dir(path)
	f, err := os.CreateTemp(folder, ".kek-") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := f.Write(formatKey(key)); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncFolder(folder)
}

func syncFolder(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
