package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"strconv"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/internal/wire"
)

// scriptDEK asks for an active data key as a service does, at its sidecar's
// socket.
func scriptDEK(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 4 || len(args) > 5 {
		ts.Fatalf("usage: dek STATUS SERVICE ITEM TENANT [SUBJECT]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	var running wire.Running
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(ts.Getenv("STATE")+"/run/system.json")), &running))
	q := agent.DEKRequest{Item: args[2], Tenant: args[3]}
	if len(args) == 5 {
		q.Subject = args[4]
	}
	body, err := json.Marshal(q)
	ts.Check(err)
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", running.Sockets[args[1]])
	}}}
	res, err := client.Post("http://sidecar"+agent.PathDEK, "application/json", bytes.NewReader(body))
	ts.Check(err)
	defer res.Body.Close()
	if res.StatusCode != want {
		ts.Fatalf("status %d, want %d", res.StatusCode, want)
	}
}
