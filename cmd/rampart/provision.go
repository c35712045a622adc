package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"

	"github.com/rampart-security/rampart/authz/rbac"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/secrets"
	"github.com/rampart-security/rampart/spec"
)

// demoFile holds what the first start made up, readable by its owner alone.
const demoFile = "demo/credentials.json"

// demo is the content of demoFile.
type demo struct {
	Users map[string]string `json:"users"`    // name -> password
	Keys  map[string]string `json:"api_keys"` // client -> key
}

// provision creates the demo identities of the file once. Without a demo block
// there is one user, with every role that the file's flows ask for.
func (u *up) provision(ctx context.Context) error {
	if _, err := os.Stat(u.state.Path(demoFile)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	d := demo{Users: map[string]string{}, Keys: map[string]string{}}
	for name, facts := range u.demoUsers() {
		password := rand.Text()
		if err := u.admin.call(ctx, http.MethodPost, wire.AdminUsers, wire.User{Name: name, Password: password, Facts: facts}, nil); err != nil {
			return fmt.Errorf("demo user %s: %w", name, err)
		}
		d.Users[name] = password
	}
	for id, c := range u.sys.Demo.Clients {
		if err := u.admin.call(ctx, http.MethodPost, wire.AdminClients, wire.Client{ID: id, Principal: c.Principal, Redirects: []string{"http://127.0.0.1/callback"}}, nil); err != nil {
			return fmt.Errorf("demo client %s: %w", id, err)
		}
		var key wire.APIKey
		if err := u.admin.call(ctx, http.MethodPost, wire.AdminAPIKeys, wire.APIKeyRequest{Client: id}, &key); err != nil {
			return fmt.Errorf("API key of %s: %w", id, err)
		}
		d.Keys[id] = key.Key
	}
	b, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return err
	}
	return u.state.WriteFile(demoFile, append(b, '\n'), 0o600)
}

// tellMissing names the secrets that the file refers to and nobody has stored:
// the services that need one keep ending until it is there, and nobody signs in
// at a provider without its.
func (u *up) tellMissing(ctx context.Context) error {
	var stored []wire.SecretMeta
	if err := u.admin.call(ctx, http.MethodGet, wire.AdminSecrets, nil, &stored); err != nil {
		return err
	}
	refs := map[string]string{}
	for name, d := range u.sys.Data {
		refs["data."+name] = d.Source
	}
	for name, st := range u.sys.Stores {
		refs["stores."+name] = st.Password
	}
	if fga := u.sys.Authz.OpenFGA; fga != nil {
		refs["authz.openfga"] = fga.Token
	}
	for name, st := range u.sys.Stores {
		if st.Rotate != nil {
			refs["stores."+name+".rotate"] = st.Rotate.Password
		}
	}
	for name, at := range u.sys.Identity.Providers {
		if at.ClientSecret != "" { // by the provider: that is where people will fail to sign in
			delete(refs, "data."+at.ClientSecret)
			refs["identity.providers."+name] = u.sys.Data[at.ClientSecret].Source
		}
	}
	for _, who := range slices.Sorted(maps.Keys(refs)) {
		ref, err := secrets.ParseRef(refs[who])
		if err != nil || ref.Backend != spec.EmbeddedBackend || slices.ContainsFunc(stored, func(m wire.SecretMeta) bool { return m.Path == ref.Path }) {
			continue
		}
		u.kids.say("%s needs the secret %s, which is not stored yet; what needs it works once you run: rampart secret put %s --state %s < FILE", who, ref.Path, ref.Path, u.stateDir)
	}
	return nil
}

func (u *up) demoUsers() map[string]spec.DemoUser {
	if len(u.sys.Demo.Users) > 0 {
		return u.sys.Demo.Users
	}
	return map[string]spec.DemoUser{"demo": {Roles: together(u.sys), Organizations: []string{"demo"}}}
}

// together returns roles that one person may hold: all of them but those that
// separation of duty keeps from roles before them.
func together(sys *spec.System) []string {
	var apart []rbac.Separation
	for _, s := range sys.Authz.Separate {
		apart = append(apart, rbac.Separation{Roles: s.Roles}) // the demo user may act at any time
	}
	roles, err := rbac.Compile(sys.Authz.Roles, apart...)
	if err != nil {
		return nil
	}
	out := []string{}
	for _, role := range slices.Sorted(maps.Keys(sys.Authz.Roles)) {
		if _, clash := roles.Conflict(append(out, role)); !clash {
			out = append(out, role)
		}
	}
	return out
}

// banner says where everything is, how to log in, and one call that works.
func (u *up) banner(trouble []string) {
	var d demo
	text, err := os.ReadFile(u.state.Path(demoFile))
	if err == nil {
		err = json.Unmarshal(text, &d)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "rampart: demo credentials:", err)
	}
	users := slices.Sorted(maps.Keys(d.Users))
	conf, err := u.curlConfig(d, users)
	if err != nil {
		fmt.Fprintln(os.Stderr, "rampart: curl example:", err)
	}
	state := "is up and defended"
	if len(trouble) > 0 {
		state = "is up, but its edge is not as rampart.yaml says,"
	}
	var b strings.Builder // printed at once: whoever waits for the first line finds the others
	fmt.Fprintf(&b, "\n%s %s after %s.\n", u.sys.Info.Name, state, sinceRounded(u.started))
	for _, line := range append(trouble, u.narrowed()...) {
		fmt.Fprintln(&b, "  ! "+line)
	}
	fmt.Fprintf(&b, `
  open      %s   (rampart ca trust --state %s makes browsers accept it)
  log in    as %s; passwords are in %s
  state     %s   (CA, keys, database, audit log, logs/)
  try       curl -K %s
  prove     rampart verify -f %s --state %s
  watch     rampart audit tail --state %s

Ctrl-C stops everything.
`, u.landing(), u.stateDir, strings.Join(users, ", "), u.state.Path(demoFile),
		u.state.Path(), conf, u.file, u.stateDir, u.stateDir)
	fmt.Print(b.String())
}

// landing is a page for who has just started the system: the first one, if some
// service answers there, else the account, which every system has. It is named
// here and not at the edge: there a stranger would ask, too.
func (u *up) landing() string {
	list, _ := routesTo(u.sys, nil) // without routes there is no first page either
	first := func(r route) bool {
		return (r.Path == "/" || r.Path == "/*") && slices.Contains(strings.Split(r.Method, ","), http.MethodGet)
	}
	if slices.ContainsFunc(list, first) {
		return u.issuer()
	}
	return u.issuer() + "account"
}

// curlConfig writes one curl configuration that logs a demo user in and makes
// the first GET that the file offers. The password stays out of argv.
func (u *up) curlConfig(d demo, users []string) (string, error) {
	if len(users) == 0 {
		return "", errors.New("no demo user")
	}
	user := users[0]
	host, reach := u.reach()
	reach = append(reach, "silent", "show-error")
	lines := slices.Concat([]string{"# Log in, then ask for what the file offers. Use: curl -K <this file>"}, reach, []string{
		"cookie-jar = " + quote(u.state.Path("demo", "cookies.txt")),
		"output = /dev/null",
		"data-urlencode = " + quote("username="+user),
		"data-urlencode = " + quote("password="+d.Users[user]),
		"url = " + quote(host+"/login"),
		"next",
	}, reach, []string{
		"cookie = " + quote(u.state.Path("demo", "cookies.txt")),
		"url = " + quote(host+u.firstPath()),
		`write-out = "\n"`,
	})
	const name = "demo/try.curl"
	return u.state.Path(name), u.state.WriteFile(name, []byte(strings.Join(lines, "\n")+"\n"), 0o600)
}

// reach is the address that curl asks, and how it gets there: by the public name
// if the certificate is for it, wherever that name leads in the world.
func (u *up) reach() (host string, lines []string) {
	at, port, _ := net.SplitHostPort(u.running.Edge)
	if ip := net.ParseIP(at); ip == nil || ip.IsUnspecified() {
		at = "localhost"
	}
	if u.edgeIsLocal() {
		lines = append(lines, "cacert = "+quote(u.state.Path("ca.pem")))
		if len(u.uncovered()) > 0 {
			return "https://" + net.JoinHostPort("localhost", port), lines
		}
	}
	if names := u.sys.Services[u.sys.Gateway()].Names; len(names) > 0 {
		lines = append(lines, "connect-to = "+quote(names[0]+":"+port+":"+net.JoinHostPort(at, port)))
	}
	return strings.TrimSuffix(u.issuer(), "/"), lines
}

// quote writes a value as configuration files of curl do.
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// firstPath is a path that a logged-in user can read: the first flow of the
// gateway whose service the demo user may read.
func (u *up) firstPath() string {
	for _, f := range u.sys.FlowsFrom(u.sys.Gateway()) {
		svc := u.sys.Services[f.To]
		if f.Idempotency != nil {
			continue // money moves there: not what a first look should be at
		}
		if svc.OpenAPI == "" {
			return svc.Mount
		}
		doc, _ := u.sys.Resource(svc.OpenAPI)
		if strings.Contains(string(doc), "\n  /"+f.To+":") {
			return strings.TrimSuffix(svc.Mount, "/") + "/" + f.To
		}
	}
	return "/session"
}
