package main

import (
	"context"
	"encoding/base64"
	"errors"
	"io/fs"
	"net/http"
	"os"

	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/internal/statedir"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/secrets/embedded"
)

// controlLink asks the control plane.
type controlLink interface {
	Call(ctx context.Context, method, path string, in, out any) error
}

// queueKey returns what encrypts a queue's messages on disk. The control plane
// keeps it, wrapped by whatever KEK it has; here it is in memory alone. Without
// the control plane a queue does not start, as it could not read its own messages:
// this is closed by choice.
func queueKey(ctx context.Context, link controlLink, state *statedir.Dir, name string) (string, error) {
	key, err := sealedQueueKey(state, name)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	var k agent.DEK
	if err := link.Call(ctx, http.MethodPost, wire.PathDEK, agent.DEKRequest{Item: wire.OwnItem, Tenant: "queue/" + name}, &k); err != nil {
		return "", err
	}
	defer clear(k.Key)
	return base64.RawStdEncoding.EncodeToString(k.Key), nil
}

// sealedQueueKey opens the key that a queue of before kept by itself: what it has
// on disk opens with no other.
func sealedQueueKey(state *statedir.Dir, name string) (string, error) {
	sealed, err := os.ReadFile(state.Path("queue/" + name + ".key"))
	if err != nil {
		return "", err
	}
	kek, err := embedded.OpenKEK(state.Path("kek"))
	if err != nil {
		return "", err
	}
	key, err := kek.Unwrap(context.Background(), sealed, []byte("rampart queue "+name))
	return string(key), err
}
