package idempotency

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/problem"
)

var start = time.Unix(1_700_000_000, 0)

// wide are limits that leave all of a file to one owner.
func wide(keys, file int64) limits {
	return limits{keys: keys, few: keys, bytes: file, fewBytes: file, file: file}
}

func newFile(t testing.TB, l limits) *File {
	t.Helper()
	f, err := open(filepath.Join(t.TempDir(), "keys.jsonl"), l, start)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func newGuard(t testing.TB) *Guard {
	return NewGuard(newFile(t, wide(100, 1<<20)), func() time.Time { return start })
}

// call does one call and returns what the client sees.
func call(g *Guard, c Call, run func(http.ResponseWriter) error) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	w.Header().Set("RateLimit", "now") // of an earlier stage
	if err := g.Do(context.Background(), w, c, run); err != nil {
		problem.Write(w, err, "")
	}
	return w
}

// pay is an upstream that counts.
func pay(n *int, status int) func(http.ResponseWriter) error {
	return func(w http.ResponseWriter) error {
		*n++
		w.Header().Set("Location", "/payments/1")
		w.Header().Set("Set-Cookie", "a=b")
		w.WriteHeader(status)
		_, err := io.WriteString(w, "paid")
		return err
	}
}

// TestDo makes two calls, and says how often the upstream was reached.
func TestDo(t *testing.T) {
	key := Call{Scope: "user:alice POST /payments", Key: "k-1", Required: true, Body: []byte("{}")}
	but := func(change func(*Call)) Call { c := key; change(&c); return c }
	noKey := but(func(c *Call) { c.Key = "" })
	free := but(func(c *Call) { c.Key, c.Required = "", false })
	for name, tc := range map[string]struct {
		first, second Call
		upstream      int // its status
		want          [2]int
		runs          int
		replayed      bool
	}{
		"the same again":             {key, key, 201, [2]int{201, 201}, 1, true},
		"a refusal is an answer":     {key, key, 404, [2]int{404, 404}, 1, true},
		"another body":               {key, but(func(c *Call) { c.Body = []byte("[]") }), 201, [2]int{201, 422}, 1, false},
		"another query":              {but(func(c *Call) { c.Query = "dry_run=1" }), key, 201, [2]int{201, 422}, 1, false},
		"another header that counts": {key, but(func(c *Call) { c.Meant = "X-Currency: EUR\n" }), 201, [2]int{201, 422}, 1, false},
		"other rights since":         {key, but(func(c *Call) { c.Rights = "viewer" }), 201, [2]int{201, 409}, 1, false},
		"another key":                {key, but(func(c *Call) { c.Key = "k-2" }), 201, [2]int{201, 201}, 2, false},
		"another principal":          {key, but(func(c *Call) { c.Scope = "user:bob POST /payments" }), 201, [2]int{201, 201}, 2, false},
		"scope and key do not blend": {key, but(func(c *Call) { c.Scope, c.Key = "user:alice POST /paymentsk", "-1" }), 201, [2]int{201, 201}, 2, false},
		"a failure may be tried":     {key, key, 503, [2]int{503, 503}, 2, false},
		"too fast may be tried":      {key, key, 429, [2]int{429, 429}, 2, false},
		"no key":                     {noKey, noKey, 201, [2]int{400, 400}, 0, false},
		"no key where none is due":   {free, free, 201, [2]int{201, 201}, 2, false},
		"a key with a space":         {but(func(c *Call) { c.Key = "a b" }), key, 201, [2]int{400, 201}, 1, false},
		"a key beyond ASCII":         {but(func(c *Call) { c.Key = "é" }), key, 201, [2]int{400, 201}, 1, false},
		"a long key":                 {but(func(c *Call) { c.Key = strings.Repeat("k", 256) }), key, 201, [2]int{400, 201}, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGuard(t)
			runs := 0
			first := call(g, tc.first, pay(&runs, tc.upstream))
			second := call(g, tc.second, pay(&runs, tc.upstream))
			if got := [2]int{first.Code, second.Code}; got != tc.want || runs != tc.runs {
				t.Errorf("answers %v after %d runs, want %v after %d", got, runs, tc.want, tc.runs)
			}
			if got := second.Header().Get(HeaderReplayed) == "true"; got != tc.replayed {
				t.Errorf("replayed %v, want %v", got, tc.replayed)
			}
			if !tc.replayed {
				return
			}
			if second.Body.String() != first.Body.String() || second.Header().Get("Location") != "/payments/1" {
				t.Errorf("the answer changed: %q, %v", second.Body, second.Header())
			}
			if second.Header().Get("Set-Cookie") != "" || second.Header().Get("RateLimit") != "now" {
				t.Errorf("headers of another moment are repeated: %v", second.Header())
			}
		})
	}
}

func TestControlIsNamed(t *testing.T) {
	g := newGuard(t)
	c := Call{Scope: "s", Key: "k", Required: true}
	errs := []error{g.Do(t.Context(), httptest.NewRecorder(), Call{Scope: "s", Required: true}, nil)}
	err := g.Do(t.Context(), httptest.NewRecorder(), c, func(w http.ResponseWriter) error {
		errs = append(errs, g.Do(t.Context(), httptest.NewRecorder(), c, nil)) // in flight
		w.WriteHeader(201)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	c.Body = []byte("other")
	errs = append(errs, g.Do(t.Context(), httptest.NewRecorder(), c, nil))
	for i, want := range []int{400, 409, 422} {
		e, ok := errors.AsType[*rampart.Error](errs[i])
		if !ok || e.Control != control || problem.Status(errs[i]) != want {
			t.Errorf("got %v, want status %d by %s", errs[i], want, control)
		}
	}
}

func TestErrorFreesTheKey(t *testing.T) {
	g := newGuard(t)
	c := Call{Scope: "s", Key: "k", Outcome: ends(NotDone)}
	if got := call(g, c, func(http.ResponseWriter) error { return rampart.Errorf(rampart.Denied, "token.exchange", "no") }).Code; got != 403 {
		t.Errorf("status %d, want 403", got)
	}
	runs := 0
	c.Outcome = nil
	if got := call(g, c, pay(&runs, 201)).Code; got != 201 || runs != 1 {
		t.Errorf("status %d after %d runs", got, runs)
	}
}

// detail is the text of a problem document.
func detail(w *httptest.ResponseRecorder) (text string) {
	_, text, _ = strings.Cut(w.Body.String(), `"detail":"`)
	text, _, _ = strings.Cut(text, `"`)
	return text
}

func ends(o Outcome) func() Outcome { return func() Outcome { return o } }

// TestOutcomes: what a retry gets, by what became of the first request. From an
// unknown outcome to a second run only the word leads that it may be repeated.
func TestOutcomes(t *testing.T) {
	refusal := func(kind rampart.Kind, status int) func(http.ResponseWriter) error {
		return func(http.ResponseWriter) error {
			return problem.With(rampart.Errorf(kind, "", "no answer"), problem.Details{Status: status})
		}
	}
	says := func(status int) func(http.ResponseWriter) error { n := 0; return pay(&n, status) }
	gone, late := refusal(rampart.Unavailable, 503), refusal(rampart.Unavailable, 504)
	cut := func(w http.ResponseWriter) error { _, _ = io.WriteString(w, "pa"); panic(http.ErrAbortHandler) }
	for name, tc := range map[string]struct {
		run      func(http.ResponseWriter) error
		outcome  Outcome
		repeats  bool
		first    int
		second   int
		replayed bool
	}{
		"never sent":                              {gone, NotDone, false, 503, 201, false},
		"refused on its way":                      {says(403), NotDone, false, 403, 201, false},
		"died of it":                              {gone, Unknown, false, 502, 409, false},
		"died of it, and may be repeated":         {gone, Unknown, true, 503, 201, false},
		"its plane says that it died of it":       {says(503), Unknown, false, 502, 409, false},
		"no answer in time":                       {late, Unknown, false, 504, 409, false},
		"no answer in time, and may be repeated":  {late, Unknown, true, 504, 409, false}, // until the lease ends
		"the answer broke off":                    {cut, Unknown, false, 502, 409, false},
		"the answer was withheld":                 {refusal(rampart.Unavailable, 502), Answered, false, 502, 502, true},
		"withheld, and may be repeated":           {refusal(rampart.Unavailable, 502), Answered, true, 502, 502, true},
		"a fault of the service's":                {says(500), Answered, false, 500, 500, true},
		"a fault of the service's, and it may be": {says(500), Answered, true, 500, 201, false},
		"the service is busy":                     {says(503), Answered, false, 503, 201, false},
		"the service is asked too fast":           {says(429), Answered, false, 429, 201, false},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGuard(t)
			c := Call{Scope: "s", Key: "k", Outcome: ends(tc.outcome), Repeats: tc.repeats}
			first := call(g, c, tc.run)
			c.Outcome = ends(Answered)
			runs := 0
			second := call(g, c, pay(&runs, 201))
			if first.Code != tc.first || second.Code != tc.second || (runs == 1) != (tc.second == 201) {
				t.Errorf("%d, then %d after %d runs; want %d, %d", first.Code, second.Code, runs, tc.first, tc.second)
			}
			if unsure := tc.outcome == Unknown && !tc.repeats; unsure && (first.Header().Get("Retry-After") != "" || detail(first) != detail(second)) {
				t.Errorf("the first answer invites to a retry, or tells another story: %v %s, then %s", first.Header(), first.Body, second.Body)
			}
			if got := second.Header().Get(HeaderReplayed) == "true"; got != tc.replayed || got && second.Body.String() != first.Body.String() {
				t.Errorf("replayed %v: %s, then %s", got, first.Body, second.Body)
			}
		})
	}
}

// TestPanicKeepsTheKey: nobody knows what the upstream did, so a repetition must
// wait for the lease.
func TestPanicKeepsTheKey(t *testing.T) {
	g := newGuard(t)
	c := Call{Scope: "s", Key: "k"}
	func() {
		defer func() { _ = recover() }()
		call(g, c, func(http.ResponseWriter) error { panic("a fault") })
	}()
	runs := 0
	if got := call(g, c, pay(&runs, 201)).Code; got != 409 || runs != 0 {
		t.Errorf("status %d after %d runs, want 409 after none", got, runs)
	}
}

func TestLargeAnswer(t *testing.T) {
	g := newGuard(t)
	c := Call{Scope: "s", Key: "k"}
	large := strings.Repeat("x", MaxResponse)
	run := func(w http.ResponseWriter) error {
		w.WriteHeader(http.StatusEarlyHints) // not a final status
		for _, part := range []string{large, "y", "z"} {
			if _, err := io.WriteString(w, part); err != nil {
				return err
			}
		}
		return nil
	}
	if first := call(g, c, run); first.Code != 200 || first.Body.String() != large+"yz" {
		t.Errorf("first answer %d of %d bytes", first.Code, first.Body.Len())
	}
	runs := 0
	if second := call(g, c, pay(&runs, 201)); second.Code != 409 || runs != 0 {
		t.Errorf("second answer %d after %d runs, want 409 after none", second.Code, runs)
	}
}

func TestClientThatLeavesChangesNothing(t *testing.T) {
	g := newGuard(t)
	c := Call{Scope: "s", Key: "k"}
	ctx, cancel := context.WithCancel(t.Context())
	runs := 0
	err := g.Do(ctx, httptest.NewRecorder(), c, func(w http.ResponseWriter) error {
		cancel()
		return pay(&runs, 201)(w)
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := call(g, c, pay(&runs, 201)); got.Header().Get(HeaderReplayed) != "true" || runs != 1 {
		t.Errorf("status %d after %d runs", got.Code, runs)
	}
}

// broken is a store that cannot write.
type broken struct{ Store }

func (broken) Finish(context.Context, Claim, Response) error {
	return Unavailable(errors.New("disk full"))
}

func TestAnswerWaitsForTheDisk(t *testing.T) {
	g := NewGuard(broken{newFile(t, wide(10, 1<<20))}, func() time.Time { return start })
	runs := 0
	w := call(g, Call{Scope: "s", Key: "k"}, pay(&runs, 201))
	if w.Code != 503 || strings.Contains(w.Body.String(), "paid") || strings.Contains(w.Body.String(), "disk") {
		t.Errorf("got %d %s, want 503 and no answer", w.Code, w.Body)
	}
}

func TestHundredDuplicates(t *testing.T) {
	g := newGuard(t)
	var ran atomic.Int64
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			w := call(g, Call{Scope: "s", Key: "k"}, func(w http.ResponseWriter) error {
				ran.Add(1)
				w.WriteHeader(201)
				return nil
			})
			if w.Code != 201 && w.Code != 409 {
				t.Errorf("status %d", w.Code)
			}
		})
	}
	wg.Wait()
	if ran.Load() != 1 {
		t.Errorf("%d upstream calls, want one", ran.Load())
	}
}

// TestFullRefuses: a full store refuses new keys and forgets none; when answers
// expire there is room again.
func TestFullRefuses(t *testing.T) {
	for name, l := range map[string]limits{"keys": wide(5, 1<<20), "bytes": wide(1000, 4000)} {
		t.Run(name, func(t *testing.T) {
			f := newFile(t, l)
			now := start
			done := map[ID]bool{}
			var refused error
			for i := byte(0); refused == nil && i < 100; i++ {
				r := Request{ID: ID{i}, Keep: time.Hour}
				c, err := f.Begin(t.Context(), r, now)
				if refused = err; err != nil {
					continue
				}
				if err := f.Finish(t.Context(), c, Response{Status: 200, Body: make([]byte, 100)}); err != nil {
					t.Fatal(err)
				}
				done[r.ID] = true
			}
			if rampart.KindOf(refused) != rampart.Unavailable {
				t.Fatalf("got %v after %d keys, want unavailable", refused, len(done))
			}
			for id := range done {
				if c, err := f.Begin(t.Context(), Request{ID: id, Keep: time.Hour}, now); err != nil || c.State != Done {
					t.Errorf("state %d, %v: a full store forgot a key", c.State, err)
				}
			}
			now = now.Add(2 * time.Hour)
			if c, err := f.Begin(t.Context(), Request{ID: ID{99}, Keep: time.Hour}, now); err != nil || c.State != New {
				t.Errorf("state %d, %v: no room although all has expired", c.State, err)
			}
			if f.size > l.file {
				t.Errorf("%d bytes, want at most %d", f.size, l.file)
			}
		})
	}
}

// TestCompactionKeepsAnswers lets the file reach its bound again and again while
// requests run.
func TestCompactionKeepsAnswers(t *testing.T) {
	f := newFile(t, wide(10_000, 40_000))
	var mu sync.Mutex
	kept := map[ID]bool{} // of those that were let in: a file that is full lets in whoever comes first
	for round := range byte(50) {
		now := start.Add(time.Duration(round) * time.Minute)
		var wg sync.WaitGroup
		for worker := range byte(4) {
			wg.Go(func() {
				for i := range byte(10) {
					keep := time.Second // gone in the next round, so that there is something to drop
					if i == 0 && round%5 == 0 {
						keep = 100 * time.Hour
					}
					r := Request{ID: ID{round, worker, i}, Keep: keep}
					c, err := f.Begin(t.Context(), r, now)
					if err != nil {
						continue // full until the next round
					}
					if err := f.Finish(t.Context(), c, Response{Status: 200, Body: r.ID[:3]}); err != nil {
						t.Error(err)
					}
					if keep > time.Second {
						mu.Lock()
						kept[r.ID] = true
						mu.Unlock()
					}
				}
			})
		}
		wg.Wait()
		for id := range kept {
			c, err := f.Begin(t.Context(), Request{ID: id, Keep: time.Hour}, now)
			if err != nil || c.State != Done {
				t.Fatalf("round %d: state %d, %v", round, c.State, err)
			}
			if diff := cmp.Diff(id[:3], c.Response.Body); diff != "" {
				t.Fatal(diff)
			}
		}
	}
	if len(kept) < 10 {
		t.Errorf("only %d answers were to be kept", len(kept))
	}
	if f.shrunk.Equal(start) {
		t.Error("the file was never compacted")
	}
}

func FuzzReplayLine(f *testing.F) {
	f.Add([]byte(`{"op":"begin","id":"00","hash":"00"}`))
	f.Add([]byte(`{"op":"done","id":"` + strings.Repeat("00", 32) + `","response":null}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		file := &File{records: map[ID]*record{}, owners: map[Owner]holding{}}
		if err := file.replayLine(text); err != nil && len(file.records) > 0 {
			t.Fatal("a damaged line left something behind")
		}
	})
}

// What waits on disk to be repeated may hold personal data: it opens for the
// request that it answers, and for nobody who reads the file.
func TestAnswersRestSealed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	store, err := NewFile(path)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	g := NewGuard(store, nil)
	c := Call{Scope: "s", Key: "k", Body: []byte("b")}
	answer := func(w http.ResponseWriter) error {
		w.Header().Set("Location", "/reset?code=alice@example.com")
		w.WriteHeader(http.StatusCreated)
		_, err := io.WriteString(w, "alice@example.com")
		return err
	}
	call(g, c, answer)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(b), "alice") || strings.Contains(string(b), base64.StdEncoding.EncodeToString([]byte("alice@example.com"))) {
		t.Errorf("the answer stands in the file:\n%s", b)
	}
	if got := call(g, c, answer); got.Header().Get(HeaderReplayed) != "true" || got.Body.String() != "alice@example.com" {
		t.Errorf("repeated: %q %q", got.Header(), got.Body)
	}
}

// TestOwnersShare: who has taken their share of the store is refused, and nobody else;
// their repeats are answered, after a restart too, and what expires makes room. A few
// long answers fill a store as well as many keys do.
func TestOwnersShare(t *testing.T) {
	for name, tc := range map[string]struct {
		limits limits
		answer int
	}{
		"of keys":  {limits{keys: 12, few: 1, bytes: 1 << 20, fewBytes: 1 << 20, file: 1 << 20}, 0},
		"of bytes": {limits{keys: 100, few: 100, bytes: 162_000, fewBytes: 1, file: 1 << 20}, 10 << 10},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFile(t, tc.limits)
			now := start
			ask := func(owner, key string) error {
				call := Call{Owner: owner, Scope: owner + " POST /x", Key: key, Required: true, Keep: time.Hour}
				return NewGuard(f, func() time.Time { return now }).Do(t.Context(), httptest.NewRecorder(), call, func(w http.ResponseWriter) error {
					_, err := w.Write(make([]byte, tc.answer))
					return err
				})
			}
			for _, key := range []string{"1", "2", "3", "1"} {
				must(t, ask("ann", key))
			}
			for _, when := range []string{"at once", "after a restart"} {
				if err := ask("ann", "4"); rampart.KindOf(err) != rampart.Limited {
					t.Errorf("%s: a fourth key: %v; want limited", when, err)
				}
				must(t, f.Close())
				var err error
				f, err = open(f.path, f.limits, now)
				must(t, err)
				t.Cleanup(func() { f.Close() })
			}
			must(t, ask("bob", "1"))
			must(t, ask("ann", "1"))
			now = now.Add(time.Hour)
			must(t, ask("ann", "4"))
		})
	}
}

// TestNewcomersFindRoom: twenty owners, one after another, who take what they can get
// do not fill the store for who comes next; and what has expired goes before anybody
// is refused.
func TestNewcomersFindRoom(t *testing.T) {
	for name, tc := range map[string]struct {
		limits limits
		answer int
	}{
		"keys":  {limits{keys: 400, few: 4, bytes: 1 << 20, fewBytes: 1 << 20, file: 1 << 20}, 0},
		"bytes": {limits{keys: 10_000, few: 10_000, bytes: 400 * 700, fewBytes: 4 * 700, file: 1 << 20}, 500},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFile(t, tc.limits)
			now, held := start, 0
			take := func(owner byte) (n int, err error) {
				for ; ; n++ {
					r := Request{ID: ID{owner, byte(n), byte(n >> 8)}, Owner: Owner{owner}, Keep: time.Hour}
					c, err := f.Begin(t.Context(), r, now)
					if err != nil {
						return n, err
					}
					must(t, f.Finish(t.Context(), c, Response{Status: 200, Body: make([]byte, tc.answer)}))
				}
			}
			for owner := range byte(20) {
				n, err := take(owner)
				if held += n; rampart.KindOf(err) != rampart.Limited || n < 2 {
					t.Fatalf("owner %d is refused after %d keys, of %d: %v", owner, n, held, err)
				}
			}
			if held < 280 {
				t.Errorf("only %d are held: the large ones did not take what they could", held)
			}
			now = now.Add(time.Hour)
			if n, _ := take(0); n < 80 {
				t.Errorf("%d keys of one owner when all others have expired", n)
			}
		})
	}
}

// TestAnswersAtOnce: an owner's answers that come at once, when each was begun within
// the share, do not take more than it: they are not kept, but that they ran is.
func TestAnswersAtOnce(t *testing.T) {
	f := newFile(t, limits{keys: 1000, few: 1000, bytes: 40_000, fewBytes: 100, file: 1 << 20})
	var claims []Claim
	for i := range byte(100) {
		c, err := f.Begin(t.Context(), Request{ID: ID{i}, Keep: time.Hour}, start)
		must(t, err)
		claims = append(claims, c)
	}
	whole, brief := 0, 0
	var wg sync.WaitGroup
	for _, c := range claims {
		wg.Go(func() {
			if err := f.Finish(t.Context(), c, Response{Status: 200, Body: make([]byte, 3000)}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i := range claims {
		c, err := f.Begin(t.Context(), Request{ID: ID{byte(i)}, Keep: time.Hour}, start)
		must(t, err)
		switch {
		case c.State != Done:
			t.Errorf("key %d: state %d, want done", i, c.State)
		case c.Response.TooLarge:
			brief++
		default:
			whole++
		}
	}
	if whole < 2 || whole > 4 || f.held.bytes > 30_000 {
		t.Errorf("%d answers are kept and %d forgotten, of %d bytes", whole, brief, f.held.bytes)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
