package frames

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// counted hands out connections as Listener does, without TLS.
type counted struct {
	net.Listener
	opt Options
}

func (l counted) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return newConn(conn, &l.opt), nil
}

// server serves HTTP/2, counted if opt is not nil. Requests to /wait are answered
// when they are over.
func server(t testing.TB, opt *Options) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	addr := l.Addr().String()
	quiet := slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	if opt != nil {
		opt.fill()
		l = counted{l, *opt}
	}
	p := new(http.Protocols)
	p.SetHTTP1(true)
	p.SetUnencryptedHTTP2(true)
	srv := &http.Server{Protocols: p, MaxHeaderBytes: 32 << 10, IdleTimeout: time.Minute, ErrorLog: quiet, Handler: http.HandlerFunc(serve),
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: 100, MaxReadFrameSize: 16 << 10}}
	done := make(chan struct{})
	go func() { defer close(done); srv.Serve(l) }()
	t.Cleanup(func() { srv.Close(); <-done })
	return addr
}

func serve(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/wait":
		<-r.Context().Done()
	case "/big":
		b := make([]byte, 64<<10)
		for range 512 {
			if _, err := w.Write(b); err != nil {
				return
			}
		}
	case "/body":
		io.Copy(io.Discard, r.Body)
	}
}

// client speaks raw frames.
type client struct {
	*http2.Framer
	conn  net.Conn
	out   bytes.Buffer
	next  uint32
	ended chan struct{} // when the server has ended the connection
	got   atomic.Int64  // bytes of DATA

	answers atomic.Int32 // heads of them
}

func dial(t testing.TB, addr string) *client {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	must(t, conn.SetDeadline(time.Now().Add(30*time.Second)))
	c := &client{conn: conn, next: 1, ended: make(chan struct{})}
	c.Framer = http2.NewFramer(&c.out, conn)
	c.AllowIllegalWrites = true
	c.out.WriteString(http2.ClientPreface)
	must(t, c.WriteSettings())
	must(t, c.flush())
	go c.drain()
	return c
}

func (c *client) flush() error {
	_, err := c.conn.Write(c.out.Bytes())
	c.out.Reset()
	return err
}

// drain reads until the server ends the connection: by closing it, or by saying
// that it will.
func (c *client) drain() {
	defer close(c.ended)
	for {
		f, err := c.ReadFrame()
		if errors.As(err, new(http2.StreamError)) {
			continue
		}
		if _, ok := f.(*http2.HeadersFrame); ok {
			c.answers.Add(1)
		}
		if d, ok := f.(*http2.DataFrame); ok {
			c.got.Add(int64(len(d.Data())))
		}
		if g, ok := f.(*http2.GoAwayFrame); err != nil || ok && g.ErrCode != http2.ErrCodeNo {
			return
		}
	}
}

func (c *client) over() bool {
	select {
	case <-c.ended:
		return true
	default:
		return false
	}
}

func block(fields ...string) []byte {
	var b bytes.Buffer
	enc := hpack.NewEncoder(&b)
	for i := 0; i+1 < len(fields); i += 2 {
		enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return b.Bytes()
}

func request(method, path string) []byte {
	return block(":method", method, ":scheme", "https", ":authority", "localhost", ":path", path)
}

// ask opens a stream.
func (c *client) ask(method, path string, end bool) uint32 {
	id := c.next
	c.next += 2
	c.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: request(method, path), EndHeaders: true, EndStream: end})
	return id
}

func reset(path string) func(*client, int) {
	return func(c *client, _ int) { c.WriteRSTStream(c.ask("GET", path, true), http2.ErrCodeCancel) }
}

// once does first before all others.
func once(first func(*client), then func(*client)) func(*client, int) {
	return func(c *client, i int) {
		if i == 0 {
			first(c)
		}
		then(c)
	}
}

func post(c *client) { c.ask("POST", "/wait", false) }

// TestAbuse plays attacks on net/http as it is, and on connections that are
// counted. The column stock says which ones net/http ends by itself; a change
// there is a reason to look at the limits here.
func TestAbuse(t *testing.T) {
	open := func(c *client) {
		c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: request("GET", "/")})
	}
	wide := block("x-a", string(bytes.Repeat([]byte("a"), 8<<10)))
	for name, tc := range map[string]struct {
		n     int // how often
		play  func(*client, int)
		rule  Rule // that ends it here; Broken: net/http does
		stock bool // net/http ends it
	}{
		// 400: net/http ends it by itself where more than four times its streams wait for their handlers
		"requests taken back, answered at once": {400, reset("/"), Resets, false},
		"requests taken back, that take long":   {400, reset("/wait"), Resets, false},
		"requests that the server must take back": {2000, func(c *client, _ int) {
			c.WriteRawFrame(http2.FrameWindowUpdate, 0, c.ask("POST", "/body", false), make([]byte, 4))
		}, Resets, false},
		"a header block that does not end":    {2000, once(open, func(c *client) { c.WriteContinuation(1, false, wide) }), Broken, true},
		"a header block in pieces of nothing": {20000, once(open, func(c *client) { c.WriteContinuation(1, false, nil) }), Block, false},
		"settings": {20000, func(c *client, i int) {
			c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: uint32(i % 2)})
		}, Flood, false},
		"pings":                             {20000, func(c *client, _ int) { c.WritePing(false, [8]byte{}) }, Flood, false},
		"priorities":                        {20000, func(c *client, _ int) { c.WritePriority(1, http2.PriorityParam{Weight: 1}) }, Flood, false},
		"frames that nobody knows":          {20000, func(c *client, _ int) { c.WriteRawFrame(0xf, 0, 0, nil) }, Flood, false},
		"a body of nothing":                 {20000, once(post, func(c *client) { c.WriteData(1, false, nil) }), Flood, false},
		"windows that open by a byte":       {20000, once(post, func(c *client) { c.WriteWindowUpdate(1, 1) }), Flood, false},
		"a window beyond its greatest size": {2, func(c *client, _ int) { c.WriteWindowUpdate(0, 1<<31-1) }, Broken, true},
		"a window setting beyond the greatest": {1, func(c *client, _ int) {
			c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 31})
		}, Broken, true},
		"streams without end, all over the bound at once": {2000, func(c *client, _ int) { c.ask("POST", "/wait", false) }, Resets, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rules := make(chan Rule, 10)
			addr := server(t, &Options{OnRefuse: func(_ net.Addr, r Rule) { rules <- r }})
			if c := dial(t, addr); !c.attack(tc.n, tc.play, true) {
				t.Errorf("counted: the connection lives after %d", tc.n)
			}
			if got := endedBy(rules, tc.rule); got != tc.rule {
				t.Errorf("ended by %q, want %q", got, tc.rule)
			}
			if c := dial(t, server(t, nil)); c.attack(tc.n, tc.play, tc.stock) != tc.stock {
				t.Errorf("net/http: ended %v, want %v", !tc.stock, tc.stock)
			}
		})
	}
}

// endedBy returns the rule that was told, which comes a moment after the end.
func endedBy(rules <-chan Rule, want Rule) Rule {
	wait := 10 * time.Second
	if want == 0 {
		wait = 0
	}
	select {
	case r := <-rules:
		return r
	case <-time.After(wait):
		return 0
	}
}

// attack plays n times and reports whether the server has ended the connection.
// An end that is expected may take as long as a busy machine needs.
func (c *client) attack(n int, play func(*client, int), expected bool) bool {
	patience := 500 * time.Millisecond
	if expected {
		patience = 20 * time.Second
	}
	for i := 0; i < n && !c.over(); i++ {
		play(c, i)
		if c.out.Len() > 16<<10 && c.flush() != nil {
			break
		}
	}
	if c.flush() != nil {
		<-c.ended
		return true
	}
	select {
	case <-c.ended:
		return true
	case <-time.After(patience):
		return false
	}
}

// TestSlow: what was begun must end, with one byte now and then or none.
func TestSlow(t *testing.T) {
	head := []byte{0, 0, 5, frameHeaders, flagEndHeaders, 0, 0, 0, 1}
	for name, sent := range map[string]string{
		"half a preface":                      preface[:10],
		"half a frame head":                   preface + string(head[:4]),
		"half a header block":                 preface + string(head) + "\x82\x86",
		"a header block in one of two pieces": preface + "\x00\x00\x01\x01\x00\x00\x00\x00\x01\x82",
	} {
		t.Run(name, func(t *testing.T) {
			rules := make(chan Rule, 10)
			addr := server(t, &Options{BlockTime: 50 * time.Millisecond, OnRefuse: func(_ net.Addr, r Rule) { rules <- r }})
			conn, err := net.Dial("tcp", addr)
			must(t, err)
			defer conn.Close()
			_, err = io.WriteString(conn, sent)
			must(t, err)
			if r := <-rules; r != Slow {
				t.Errorf("ended by %q", r)
			}
			must(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
			if _, err := io.Copy(io.Discard, conn); errors.Is(err, context.DeadlineExceeded) {
				t.Error("the connection is open")
			}
		})
	}
}

// TestPreface: a connection that agreed on HTTP/2 cannot speak HTTP/1, which
// net/http would serve.
func TestPreface(t *testing.T) {
	for name, sent := range map[string]string{
		"a request of HTTP/1":      "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"the begin of a preface":   preface[:16] + "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"the last byte is another": preface[:23] + "\r",
	} {
		t.Run(name, func(t *testing.T) {
			rules := make(chan Rule, 10)
			conn, err := net.Dial("tcp", server(t, &Options{OnRefuse: func(_ net.Addr, r Rule) { rules <- r }}))
			must(t, err)
			defer conn.Close()
			must(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
			_, err = io.WriteString(conn, sent)
			must(t, err)
			if b, _ := io.ReadAll(conn); len(b) > 0 {
				t.Errorf("answered %.20q", b)
			}
			if r := endedBy(rules, Preface); r != Preface {
				t.Errorf("ended by %q", r)
			}
		})
	}
}

// TestGood: an honest client is never in the way of a rule: many requests, large
// answers and bodies, and answers that it leaves now and then.
func TestGood(t *testing.T) {
	var refused atomic.Int32
	addr := server(t, &Options{OnRefuse: func(net.Addr, Rule) { refused.Add(1) }})
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: p}
	defer tr.CloseIdleConnections()
	cl := &http.Client{Transport: tr, Timeout: time.Minute}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 250 {
				path, method, body := "/", http.MethodGet, io.Reader(nil)
				switch {
				case i%100 == 50:
					path = "/big"
				case i%10 == 5:
					path, method, body = "/body", http.MethodPost, bytes.NewReader(make([]byte, 100<<10))
				}
				req, err := http.NewRequest(method, "http://"+addr+path, body)
				if err != nil {
					t.Error(err)
					return
				}
				res, err := cl.Do(req)
				if err != nil {
					t.Error(err)
					return
				}
				io.Copy(io.Discard, res.Body)
				res.Body.Close()
			}
		})
	}
	wg.Wait()
	if n := refused.Load(); n != 0 {
		t.Errorf("%d connections of an honest client were ended", n)
	}
}

// TestLateWindows: a client may take a whole answer and open its windows for it
// only then, as one does whose reader comes late.
func TestLateWindows(t *testing.T) {
	const size = 512 * 64 << 10 // of /big
	rules := make(chan Rule, 10)
	c := dial(t, server(t, &Options{OnRefuse: func(_ net.Addr, r Rule) { rules <- r }}))
	c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 2 * size})
	c.WriteWindowUpdate(0, 2*size)
	c.ask("GET", "/big", true)
	must(t, c.flush())
	for c.got.Load() < size && !c.over() {
		time.Sleep(time.Millisecond)
	}
	for range size / (4 << 10) {
		c.WriteWindowUpdate(0, 4<<10)
		c.WriteWindowUpdate(1, 4<<10)
	}
	c.ask("GET", "/", true)
	if over := c.attack(1, func(c *client, _ int) { c.WritePing(false, [8]byte{}) }, false); over {
		t.Errorf("ended by %q", endedBy(rules, Flood))
	}
}

// FuzzScanner: however bytes are split, the same frames are seen, and those that
// x/net/http2 sees.
func FuzzScanner(f *testing.F) {
	var b bytes.Buffer
	fr := http2.NewFramer(&b, nil)
	fr.WriteSettings(http2.Setting{ID: 3, Val: 100})
	fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: request("GET", "/")})
	fr.WriteContinuation(1, true, []byte{0x82})
	fr.WriteRSTStream(1, http2.ErrCodeCancel)
	fr.WriteData(1, true, []byte("hello"))
	f.Add(b.Bytes(), uint64(1))
	f.Add([]byte{0, 0, 2, frameReset, 0, 0, 0, 0, 1, 0, 1}, uint64(2))
	f.Add([]byte{0, 0, 8, frameGoAway, 0, 0, 0, 0, 0, 0, 0, 0, 1}, uint64(3))
	f.Fuzz(func(t *testing.T, in []byte, seed uint64) {
		var whole, parts []frame
		var one, many scanner
		one.feed(in, func(f frame) Rule { whole = append(whole, f); return 0 })
		rnd := rand.New(rand.NewPCG(seed, 0))
		for rest := in; len(rest) > 0; {
			n := 1 + rnd.IntN(len(rest))
			many.feed(rest[:n], func(f frame) Rule { parts = append(parts, f); return 0 })
			rest = rest[n:]
		}
		if len(whole) != len(parts) || one.open() != many.open() || one.pieces != many.pieces || one.block != many.block {
			t.Fatalf("%d frames in one piece, %d in many", len(whole), len(parts))
		}
		for i := range whole {
			if whole[i] != parts[i] {
				t.Fatalf("frame %d: %v in one piece, %v in many", i, whole[i], parts[i])
			}
		}
		compare(t, in, whole)
	})
}

// compare reads the frames by their lengths alone.
func compare(t *testing.T, in []byte, got []frame) {
	for i := 0; len(in) >= headBytes; i++ {
		n := int(binary.BigEndian.Uint32(in) >> 8)
		if end := (frame{kind: in[3]}).codeEnd(); end > 0 && n >= end && len(in) < headBytes+end {
			return // it is told with its code, which did not come
		}
		if i >= len(got) || got[i].kind != in[3] || got[i].flags != in[4] || got[i].length != n {
			t.Fatalf("frame %d is not as it was sent", i)
		}
		in = in[min(len(in), headBytes+n):]
	}
}

func BenchmarkScanner(b *testing.B) {
	var buf bytes.Buffer
	fr := http2.NewFramer(&buf, nil)
	fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: request("POST", "/"), EndHeaders: true})
	fr.WriteData(1, true, make([]byte, 1024))
	var s scanner
	b.ReportAllocs()
	for b.Loop() {
		s.feed(buf.Bytes(), func(f frame) Rule { return 0 })
	}
}

// TestLong: a head that net/http answers by itself, or for which it ends the
// connection, is told of; one that it reads is not.
func TestLong(t *testing.T) {
	for name, row := range map[string]struct {
		fields, each int
		told         Rule
	}{
		"a short one":                      {1, 200, 0},
		"one that is just read":            {10, 3 << 10, 0},
		"one above that":                   {10, 4 << 10, Long},
		"one of 70 KB":                     {10, 7000, Long},
		"one of 70 KB, all in one field":   {1, 70_000, Broken},
		"one field above what may be read": {1, 40 << 10, Broken},
	} {
		t.Run(name, func(t *testing.T) {
			told := make(chan Rule, 10)
			c := dial(t, server(t, &Options{LongBlock: 33 << 10, OnRefuse: func(_ net.Addr, r Rule) { told <- r }}))
			c.long(row.fields, row.each)
			must(t, c.flush())
			if row.told == 0 {
				for end := time.Now().Add(20 * time.Second); c.answers.Load() == 0 && time.Now().Before(end); {
					time.Sleep(time.Millisecond)
				}
				if c.answers.Load() != 1 {
					t.Error("no answer")
				}
			}
			if got := endedBy(told, row.told); got != row.told {
				t.Errorf("told %q, want %q", got, row.told)
			}
		})
	}
}

// long asks with so many fields of so many bytes each, in pieces as large as they may
// be.
func (c *client) long(fields, each int) {
	var b bytes.Buffer
	b.Write(request("GET", "/"))
	for range fields {
		b.Write([]byte{0x00, 3, 'x', '-', 'a', 0x7f}) // a literal that is not compressed, whose length follows (RFC 7541 section 5.1)
		n := each - 0x7f
		for ; n >= 0x80; n >>= 7 {
			b.WriteByte(byte(n)&0x7f | 0x80)
		}
		b.WriteByte(byte(n))
		b.Write(bytes.Repeat([]byte("v"), each))
	}
	id := c.next
	c.next += 2
	head := b.Next(16 << 10)
	c.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: head, EndHeaders: b.Len() == 0, EndStream: true})
	for b.Len() > 0 {
		piece := b.Next(16 << 10)
		c.WriteContinuation(id, b.Len() == 0, piece)
	}
}
