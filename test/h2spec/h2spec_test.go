package h2spec

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/summerwind/h2spec/config"
	"github.com/summerwind/h2spec/generic"
	"github.com/summerwind/h2spec/hpack"
	"github.com/summerwind/h2spec/http2"
	"github.com/summerwind/h2spec/spec"

	"github.com/rampart-security/rampart/control/controltest"
	"github.com/rampart-security/rampart/gateway"
	"github.com/rampart-security/rampart/network/idempotency"
)

// known are the cases that net/http fails, and so does the edge, with the clause
// that they test as it stands today.
func known() map[string]string {
	const field = "RFC 9113 section 8.2.2: malformed; net/http answers 400, which section 8.1.1 allows, in place of a stream error"
	return map[string]string{
		"http2/6.5.3/1 Sends multiple values of SETTINGS_INITIAL_WINDOW_SIZE":                                          "RFC 9113 section 6.5.3: the values count in their order; net/http ends the connection over a setting given twice",
		"http2/8.1.2.2/1 Sends a HEADERS frame that contains the connection-specific header field":                     field,
		`http2/8.1.2.2/2 Sends a HEADERS frame that contains the TE header field with any value other than "trailers"`: field,
	}
}

// TestConformance demands that the edge passes whatever net/http passes. Cases
// that wait for a time are asked again: a busy machine fails them now and then.
func TestConformance(t *testing.T) {
	stock, edge := verdicts(t, plain(t)), verdicts(t, start(t))
	if len(stock) < 140 || len(edge) != len(stock) {
		t.Fatalf("%d cases of the control, %d of the edge: want at least 140", len(stock), len(edge))
	}
	both := 0
	for _, id := range slices.Sorted(maps.Keys(edge)) {
		clause, ok := known()[id]
		switch {
		case edge[id] && ok:
			t.Errorf("passes, although it is listed: %s", id)
		case edge[id]:
			if !stock[id] {
				t.Logf("the edge passes, net/http fails: %s", id)
			}
		case stock[id]:
			t.Errorf("net/http passes, the edge fails: %s", id)
		case !ok:
			t.Errorf("both fail, and nobody says why: %s", id)
		default:
			both++
			t.Logf("both fail: %s: %s", id, clause)
		}
	}
	t.Logf("%d cases, of which the edge passes %d and net/http %d; both fail %d", len(edge), count(edge), count(stock), both)
}

func count(m map[string]bool) (n int) {
	for _, ok := range m {
		if ok {
			n++
		}
	}
	return n
}

// plain is net/http as it is, over TLS.
func plain(t *testing.T) string {
	srv := httptest.NewUnstartedServer(http.NotFoundHandler())
	srv.EnableHTTP2, srv.Config.ErrorLog = true, slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

// start runs a control plane and a gateway and returns the edge's address.
func start(t *testing.T) string {
	h := controltest.Start(t, controltest.File(t))
	link := h.Link(h.Options("gateway/edge", "gateway/edge"))
	store, err := idempotency.NewFile(filepath.Join(t.TempDir(), "keys"))
	must(t, err)
	t.Cleanup(func() { store.Close() })
	g, err := gateway.New(gateway.Options{Name: "edge", Link: link, Audit: h.Log("gateway/edge"), Idem: store, State: h.State, Logger: h.Logger})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("gateway: %v", err)
		}
	})
	h.Until("the edge is up", func() bool { return g.Addr() != "" })
	return g.Addr()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// verdicts has every case played, and those that fail unexpectedly again: most of
// them wait for something.
func verdicts(t *testing.T, addr string) map[string]bool {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	must(t, err)
	n, err := strconv.Atoi(port)
	must(t, err)
	c := &config.Config{Host: host, Port: n, Path: "/", Timeout: 3 * time.Second, // net/http closes a connection a second after it said why
		MaxHeaderLen: 4000, TLS: true, Insecure: true, Strict: true}
	var wg sync.WaitGroup
	var mu sync.Mutex
	out, slots := map[string]bool{}, make(chan struct{}, 16)
	for id, tc := range cases() {
		wg.Go(func() {
			slots <- struct{}{}
			ok := passes(c, tc) || known()[id] == "" && (passes(c, tc) || passes(c, tc))
			<-slots
			mu.Lock()
			defer mu.Unlock()
			out[id] = ok
		})
	}
	wg.Wait()
	return out
}

// cases are all of the suite, by section, number and title.
func cases() map[string]*spec.TestCase {
	out := map[string]*spec.TestCase{}
	var add func(*spec.TestGroup)
	add = func(g *spec.TestGroup) {
		for i, tc := range append(g.Tests, g.StrictTests...) {
			out[fmt.Sprintf("%s/%d %s", g.ID(), i+1, tc.Desc)] = tc
		}
		for _, sub := range g.Groups {
			add(sub)
		}
	}
	add(generic.Spec())
	add(http2.Spec())
	add(hpack.Spec())
	return out
}

func passes(c *config.Config, tc *spec.TestCase) bool {
	conn, err := spec.Dial(c)
	if err != nil {
		return false
	}
	defer conn.Close()
	err = tc.Run(c, conn)
	return err == nil || errors.Is(err, spec.ErrSkipped)
}
