package awssm_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/secrets"
	"github.com/rampart-security/rampart/secrets/awssm"
	"github.com/rampart-security/rampart/secrets/awssm/awstest"
	"github.com/rampart-security/rampart/secrets/secretstest"
)

var (
	_ secrets.Writer   = (*awssm.Backend)(nil)
	_ secrets.Versions = (*awssm.Backend)(nil)
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func account(s *awstest.Server) awssm.Account {
	return awssm.Account{Region: awstest.Region, Endpoint: s.URL, HTTP: s.Client(), Credentials: credentials.NewStaticCredentialsProvider(awstest.AccessKey, awstest.SecretKey, "")}
}

func open(t testing.TB, a awssm.Account) *awssm.Backend {
	t.Helper()
	b, err := awssm.New(t.Context(), "cloud", a)
	must(t, err)
	return b
}

func ref(path, field string) secrets.Ref {
	return secrets.Ref{Backend: "cloud", Path: path, Field: field}
}

func TestBackend(t *testing.T) {
	secretstest.Backend(t, func(t *testing.T) secretstest.Place {
		s := awstest.New(t)
		b := open(t, account(s))
		return secretstest.Place{
			Backend: b, Name: "cloud", Whole: true, Deny: func(_ *testing.T, path string) { s.Deny(path) }, Down: s.Down, Hang: s.Hang,
			Set: func(t *testing.T, path string, f map[string]string) {
				_, err := b.Put(t.Context(), path, []byte(f[""]), -1)
				must(t, err)
			},
		}
	})
}

func TestFields(t *testing.T) {
	s := awstest.New(t)
	b := open(t, account(s))
	s.Set("db", `{"username":"app","password":"hunter2","port":5432,"tls":true,"nested":{"a":1},"none":null,"empty":""}`)
	s.Set("twice", `{"password":"a","password":"b"}`)
	s.Set("text", "plain")
	for name, c := range map[string]struct {
		path, field, want, user string
		kind                    rampart.Kind
	}{
		"the whole":             {path: "text", want: "plain"},
		"a text":                {path: "db", field: "username", want: "app"},
		"a password, its user":  {path: "db", field: "password", want: "hunter2", user: "app"},
		"a number":              {path: "db", field: "port", want: "5432"},
		"a truth value":         {path: "db", field: "tls", want: "true"},
		"an object":             {path: "db", field: "nested", kind: rampart.Invalid},
		"nothing":               {path: "db", field: "none", kind: rampart.Invalid},
		"an empty text":         {path: "db", field: "empty", kind: rampart.Invalid},
		"a field that is not":   {path: "db", field: "host", kind: rampart.NotFound},
		"a name twice":          {path: "twice", field: "password", kind: rampart.Invalid},
		"a text has no fields":  {path: "text", field: "password", kind: rampart.Invalid},
		"a secret that is not":  {path: "none", kind: rampart.NotFound},
		"a version by its name": {path: "text/../db", kind: rampart.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := b.Fetch(t.Context(), ref(c.path, c.field))
			if c.want == "" {
				if err == nil || rampart.KindOf(err) != c.kind || strings.Contains(fmt.Sprintf("%+v", err), "hunter2") {
					t.Fatalf("got %v, want kind %v", err, c.kind)
				}
				return
			}
			must(t, err)
			if got.User() != c.user || got.Version() != 0 {
				t.Errorf("user %q, version %d", got.User(), got.Version())
			}
			must(t, got.Use(func(v []byte) error {
				if string(v) != c.want {
					t.Errorf("got %q", v)
				}
				return nil
			}))
		})
	}
}

// A rotation function of AWS puts the next value under AWSPENDING first: nobody
// gets that before it is current.
func TestStages(t *testing.T) {
	s := awstest.New(t)
	b := open(t, account(s))
	s.Set("db", "first")
	s.Stage("db", "untested", "AWSPENDING")
	got, err := b.Fetch(t.Context(), ref("db", ""))
	must(t, err)
	must(t, got.Use(func(v []byte) error {
		if string(v) != "first" {
			t.Errorf("got %q", v)
		}
		return nil
	}))
	s.DeleteLater("db")
	if _, err := b.Fetch(t.Context(), ref("db", "")); rampart.KindOf(err) != rampart.NotFound {
		t.Errorf("what waits to be deleted: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(s *awstest.Server, a *awssm.Account)
		kind  rampart.Kind
	}{
		"a key nobody knows": {func(_ *awstest.Server, a *awssm.Account) {
			a.Credentials = credentials.NewStaticCredentialsProvider("AKIDOTHER", awstest.SecretKey, "")
		}, rampart.Unauthenticated},
		"a wrong signature": {func(_ *awstest.Server, a *awssm.Account) {
			a.Credentials = credentials.NewStaticCredentialsProvider(awstest.AccessKey, "other", "")
		}, rampart.Unauthenticated},
		"another region":        {func(_ *awstest.Server, a *awssm.Account) { a.Region = "us-east-1" }, rampart.Unauthenticated},
		"throttled, twice":      {func(s *awstest.Server, _ *awssm.Account) { s.Throttle(2) }, rampart.Limited},
		"a foreign certificate": {func(_ *awstest.Server, a *awssm.Account) { a.HTTP = http.DefaultClient }, rampart.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			s := awstest.New(t)
			s.Set("key", "canary")
			a := account(s)
			c.spoil(s, &a)
			_, err := open(t, a).Fetch(t.Context(), ref("key", ""))
			if err == nil || rampart.KindOf(err) != c.kind {
				t.Errorf("got %v, want kind %v", err, c.kind)
			}
		})
	}
	t.Run("throttled once", func(t *testing.T) {
		s := awstest.New(t)
		s.Set("key", "value")
		s.Throttle(1)
		_, err := open(t, account(s)).Fetch(t.Context(), ref("key", ""))
		must(t, err)
	})
}

// Keys in the environment are refused, not ignored; the shared file of the user
// serves; addresses in the environment do not count.
func TestWhereCredentialsComeFrom(t *testing.T) {
	s := awstest.New(t)
	s.Set("key", "value")
	a := account(s)
	a.Credentials = nil
	file := filepath.Join(t.TempDir(), "credentials")
	must(t, os.WriteFile(file, []byte("[default]\naws_access_key_id = "+awstest.AccessKey+"\naws_secret_access_key = "+awstest.SecretKey+"\n"), 0o600))
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", file)
	t.Setenv("AWS_ENDPOINT_URL", "https://127.0.0.1:1")
	t.Setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", "https://127.0.0.1:1")
	_, err := open(t, a).Fetch(t.Context(), ref("key", ""))
	must(t, err)
	t.Setenv("AWS_ACCESS_KEY_ID", awstest.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", "canary")
	if _, err := awssm.New(context.Background(), "cloud", a); rampart.KindOf(err) != rampart.Invalid || strings.Contains(err.Error(), "canary") {
		t.Errorf("keys in the environment: %v", err)
	}
}
