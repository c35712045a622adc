package main

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/rampart-security/rampart/internal/wire"
)

// TestMain makes the test binary the program itself, so that scripts run what
// users run.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"rampart": main})
}

// TestScripts runs test/e2e/*.txtar: everything that a user types. A script
// that needs a running system starts one of its own:
//
//	exec rampart up -f shop.yaml --state st --free-ports &
//	up st
//
// and is a browser at its edge with: edge BROWSER STATUS METHOD PATH [NAME=VALUE...]
// where a VALUE of @FILE is the file's content and NAME: is a header; $TRACE is then
// what a refusal says it is.
// A client that proves itself makes a key, with its public half in FILE, and
// gets a token for itself, as a header's value in FILE:
//
//	clientkey KEY FILE
//	clienttoken KEY CLIENT FILE
//
// As a service does it asks its sidecar for a data key:
//
//	dek STATUS SERVICE ITEM TENANT [SUBJECT]
//
// An age key is made by: agekey FILE VARIABLE, with the public half in the variable.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "../../test/e2e",
		Setup: func(e *testscript.Env) error {
			e.Values[browsersKey{}], e.Values[keysKey{}] = browsers{}, keys{}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"up": scriptUp, "edge": scriptEdge, "clientkey": scriptClientKey, "clienttoken": scriptClientToken, "dek": scriptDEK, "agekey": scriptAgeKey},
	})
}

// browsers are those of one script, by name.
type browsers map[string]*http.Client

type browsersKey struct{}

// scriptUp waits for the system of a state folder.
func scriptUp(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: up STATE")
	}
	ts.Setenv("STATE", args[0])
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		_, err := os.Stat(ts.MkAbs(args[0] + "/run/system.json"))
		if err == nil {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("the system did not come up: %v", err)
		}
	}
}

// scriptEdge sends one request and demands its status.
func scriptEdge(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 4 {
		ts.Fatalf("usage: edge BROWSER STATUS METHOD PATH [NAME=VALUE...]")
	}
	client, base, err := browserOf(ts, args[0])
	ts.Check(err)
	want, err := strconv.Atoi(args[1])
	ts.Check(err)
	req, err := edgeRequest(ts, args[2], base+args[3], args[4:])
	ts.Check(err)
	// Every plane hears of a revocation within a second.
	var text string
	for end := time.Now().Add(3 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		status, body, err := send(client, req)
		ts.Check(err)
		if text = body; status == want {
			break
		}
		if time.Now().After(end) || req.Method != http.MethodGet {
			ts.Fatalf("%s %s: %d, want %d\n%s", req.Method, req.URL.Path, status, want, body)
		}
	}
	fmt.Fprint(ts.Stdout(), text)
	var refused struct{ Trace string }
	json.Unmarshal([]byte(text), &refused) // a page and an answer have none
	ts.Setenv("TRACE", refused.Trace)
}

func send(client *http.Client, req *http.Request) (int, string, error) {
	res, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	return res.StatusCode, string(b), err
}

// browserOf returns a browser with cookies of its own, and where the edge is.
func browserOf(ts *testscript.TestScript, name string) (*http.Client, string, error) {
	state := ts.MkAbs(ts.Getenv("STATE"))
	b, err := os.ReadFile(state + "/run/system.json")
	if err != nil {
		return nil, "", err
	}
	var running wire.Running
	if err := json.Unmarshal(b, &running); err != nil {
		return nil, "", err
	}
	base := "https://localhost" + running.Edge[strings.LastIndex(running.Edge, ":"):]
	mine, ok := ts.Value(browsersKey{}).(browsers)
	if !ok {
		return nil, "", errors.New("no browsers")
	}
	if c := mine[name]; c != nil {
		return c, base, nil
	}
	roots, err := rootsFile(state + "/ca.pem")
	if err != nil {
		return nil, "", err
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, "", err
	}
	mine[name] = &http.Client{
		Jar: jar, Timeout: 20 * time.Second,
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return mine[name], base, nil
}

func edgeRequest(ts *testscript.TestScript, method, to string, args []string) (*http.Request, error) {
	form, header := url.Values{}, http.Header{}
	for _, arg := range args {
		name, value, _ := strings.Cut(arg, "=")
		if file, ok := strings.CutPrefix(value, "@"); ok {
			value = strings.TrimRight(ts.ReadFile(file), "\n")
		}
		if h, ok := strings.CutSuffix(name, ":"); ok {
			header.Set(h, value)
			continue
		}
		form.Set(name, value)
	}
	req, err := http.NewRequest(method, to, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	if len(form) == 0 {
		req.Body, req.ContentLength = nil, 0
	} else {
		header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	req.Header = header
	return req, nil
}
