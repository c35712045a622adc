//go:build pkcs11 && cgo

package pkcs11

import (
	"bytes"
	"context"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/ThalesGroup/crypto11"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/secrets"
)

const (
	wrapV1     = 0x01
	nonceSize  = 12
	overhead   = 1 + nonceSize + 16
	maxPlain   = 4096
	maxWrapped = maxPlain + overhead
	keyBytes   = 32
	maxPIN     = 256
	sessions   = 8
	waitFor    = 2 * time.Second // for a session
)

// KEK is an AES key in a module: it encrypts there, with GCM, and never leaves.
// Safe for concurrent use.
type KEK struct {
	id   string
	ctx  *crypto11.Context
	aead cipher.AEAD

	mu     sync.RWMutex // held for writing while it is closed: the library answers no late call
	closed bool
}

var _ secrets.KEK = (*KEK)(nil)

// Open logs in and finds the key. A key that could be taken out is refused, and
// so is a label that two keys have.
func Open(o Options) (*KEK, error) {
	pin, err := readPIN(o.PINFile)
	if err != nil {
		return nil, fmt.Errorf("pkcs11: PIN file: %w", err)
	}
	ctx, err := crypto11.Configure(&crypto11.Config{Path: o.Module, TokenLabel: o.Token, Pin: pin, MaxSessions: sessions, PoolWaitTimeout: waitFor, GCMIVLength: nonceSize})
	if err != nil {
		return nil, &rampart.Error{Kind: rampart.Unavailable, Control: control, Msg: fmt.Sprintf("pkcs11: token %s cannot be opened: %v", o.Token, err), Err: err}
	}
	k := &KEK{id: "pkcs11:" + o.Token + "/" + o.Key, ctx: ctx}
	if k.aead, err = k.find(o.Key); err != nil {
		ctx.Close()
		return nil, err
	}
	return k, nil
}

func (k *KEK) find(label string) (cipher.AEAD, error) {
	keys, err := k.ctx.FindKeys(nil, []byte(label))
	if err != nil {
		return nil, &rampart.Error{Kind: rampart.Unavailable, Control: control, Msg: "pkcs11: the token cannot be searched: " + err.Error(), Err: err}
	}
	if len(keys) != 1 {
		return nil, rampart.Errorf(rampart.Invalid, control, "pkcs11: %d secret keys have the label of %s, want one", len(keys), k.id)
	}
	for attribute, want := range map[crypto11.AttributeType][]byte{crypto11.CkaSensitive: {1}, crypto11.CkaExtractable: {0}, crypto11.CkaValueLen: nil} {
		a, err := k.ctx.GetAttribute(keys[0], attribute)
		switch {
		case err != nil || a == nil:
			return nil, rampart.Errorf(rampart.Invalid, control, "pkcs11: the token does not say whether %s can be taken out, or how long it is", k.id)
		case want == nil && (len(a.Value) == 0 || a.Value[0] != keyBytes):
			return nil, rampart.Errorf(rampart.Invalid, control, "pkcs11: %s is no AES key of 256 bits", k.id)
		case want != nil && !bytes.Equal(a.Value, want):
			return nil, rampart.Errorf(rampart.Invalid, control, "pkcs11: %s could be taken out of the token: make a key that is sensitive and not extractable", k.id)
		}
	}
	return keys[0].NewGCM()
}

func readPIN(path string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	sys, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.Mode().IsRegular() || int(sys.Uid) != os.Geteuid() || info.Mode().Perm()&0o077 != 0 {
		return "", &fs.PathError{Op: "open", Path: path, Err: errors.New("others could read it, or it is another user's: chmod 600 it")}
	}
	b, err := io.ReadAll(io.LimitReader(f, maxPIN+1))
	if err != nil || len(b) > maxPIN {
		return "", errors.Join(err, errors.New("it holds no PIN"))
	}
	return strings.TrimRight(string(b), "\r\n"), nil
}

// KeyID implements secrets.KEK: pkcs11:TOKEN/KEY. A key of a module has no
// versions; another one has another label.
func (k *KEK) KeyID() string { return k.id }

// String is KeyID.
func (k *KEK) String() string { return k.id }

// GoString is KeyID.
func (k *KEK) GoString() string { return k.id }

// Close logs out, after the calls under way. The key is Unavailable afterwards.
func (k *KEK) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return nil
	}
	k.closed = true
	return k.ctx.Close()
}

// ready is asked with mu held for reading.
func (k *KEK) ready(ctx context.Context) error {
	if k.closed {
		return k.fail(errors.New("the module is closed"))
	}
	if ctx.Err() != nil {
		return k.fail(ctx.Err())
	}
	return nil
}

// Wrap implements secrets.KEK: 0x01 || nonce || ciphertext || tag.
func (k *KEK) Wrap(ctx context.Context, dek, aad []byte) (wrapped []byte, err error) {
	if len(dek) == 0 || len(dek) > maxPlain {
		return nil, rampart.Errorf(rampart.Internal, control, "pkcs11: a key to wrap has 1 to %d bytes", maxPlain)
	}
	k.mu.RLock()
	defer k.mu.RUnlock()
	if err := k.ready(ctx); err != nil {
		return nil, err
	}
	defer func() {
		if r := recover(); r != nil { // the library panics where its interface has no error
			wrapped, err = nil, k.fail(fmt.Errorf("%v", r))
		}
	}()
	out := make([]byte, 1+nonceSize)
	out[0] = wrapV1
	rand.Read(out[1:])
	return append(out, k.aead.Seal(nil, out[1:], dek, append([]byte{wrapV1}, aad...))...), nil
}

// Unwrap implements secrets.KEK.
func (k *KEK) Unwrap(ctx context.Context, wrapped, aad []byte) ([]byte, error) {
	if len(wrapped) <= overhead || len(wrapped) > maxWrapped || wrapped[0] != wrapV1 {
		return nil, rampart.Errorf(rampart.Internal, control, "pkcs11: wrapped key is not in a known format")
	}
	k.mu.RLock()
	defer k.mu.RUnlock()
	if err := k.ready(ctx); err != nil {
		return nil, err
	}
	dek, err := k.aead.Open(nil, wrapped[1:1+nonceSize], wrapped[1+nonceSize:], append([]byte{wrapV1}, aad...))
	if err != nil {
		return nil, k.fail(err)
	}
	return dek, nil
}

// gone are the results (PKCS #11 section 5.1) that say that the token, not the
// text, is why. The library hands them on as text.
var gone = strings.NewReplacer("CKR_DEVICE_", "!", "CKR_TOKEN_", "!", "CKR_SESSION_", "!", "CKR_USER_", "!", "CKR_CRYPTOKI_", "!", "CKR_KEY_HANDLE", "!", "CKR_OBJECT_HANDLE", "!", "CKR_HOST_MEMORY", "!", "CKR_SLOT_", "!")

func (k *KEK) fail(err error) error {
	kind := rampart.Internal
	text := err.Error()
	if gone.Replace(text) != text || !strings.Contains(text, "CKR_") {
		kind = rampart.Unavailable
	}
	return &rampart.Error{Kind: kind, Control: control, Msg: "key " + k.id + ": " + text, Err: err}
}
