package kms_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/secrets/awssm"
	"github.com/rampart-security/rampart/secrets/awssm/awstest"
	"github.com/rampart-security/rampart/secrets/kms"
	"github.com/rampart-security/rampart/secrets/secretstest"
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

func open(t testing.TB, s *awstest.Server, key string) *kms.KEK {
	t.Helper()
	k, err := kms.New(t.Context(), account(s), key)
	must(t, err)
	return k
}

func TestKEK(t *testing.T) {
	secretstest.KEK(t, func(t *testing.T) secretstest.Key {
		s := awstest.New(t)
		id := s.NewKey()
		return secretstest.Key{
			KEK: open(t, s, id), Other: open(t, s, s.NewKey()), Unversioned: true,
			Rotate: func(*testing.T) { s.RotateKey(id) }, Down: s.Down,
		}
	})
}

// What somebody can put right is Unavailable, so that nothing is thrown away;
// bytes that do not open are Internal.
func TestErrors(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(s *awstest.Server, id string)
		kind  rampart.Kind
	}{
		"pending deletion": {func(s *awstest.Server, id string) { s.SetState(id, "PendingDeletion") }, rampart.Unavailable},
		"disabled":         {func(s *awstest.Server, id string) { s.SetState(id, "Disabled") }, rampart.Unavailable},
		"not permitted":    {func(s *awstest.Server, id string) { s.Deny(id) }, rampart.Unavailable},
		"throttled":        {func(s *awstest.Server, _ string) { s.Throttle(10) }, rampart.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			s := awstest.New(t)
			id := s.NewKey()
			k := open(t, s, id)
			wrapped, err := k.Wrap(t.Context(), []byte("dek"), []byte("canary-tenant"))
			must(t, err)
			c.spoil(s, id)
			_, err = k.Unwrap(t.Context(), wrapped, []byte("canary-tenant"))
			if err == nil || rampart.KindOf(err) != c.kind || strings.Contains(err.Error(), "canary") {
				t.Errorf("got %v, want kind %v", err, c.kind)
			}
		})
	}
}

// The encryption context stands in AWS's logs: what the aad says does not.
func TestContextShowsNothing(t *testing.T) {
	s := awstest.New(t)
	k, err := kms.New(t.Context(), account(s), s.NewKey())
	must(t, err)
	seen := &recorder{next: s.Client().Transport}
	a := account(s)
	a.HTTP = &http.Client{Transport: seen}
	spied, err := kms.New(t.Context(), a, k.KeyID()[len("aws:"):])
	must(t, err)
	_, err = spied.Wrap(t.Context(), []byte("dek"), []byte("canary-tenant"))
	must(t, err)
	if body := seen.body; !strings.Contains(body, "EncryptionContext") || strings.Contains(body, "canary") {
		t.Errorf("the request is %s", body)
	}
}

func TestAliasIsRefused(t *testing.T) {
	s := awstest.New(t)
	for _, key := range []string{"", "alias/kek", "arn:aws:kms:eu-central-1:111122223333:alias/kek"} {
		if _, err := kms.New(t.Context(), account(s), key); rampart.KindOf(err) != rampart.Invalid {
			t.Errorf("%q: %v", key, err)
		}
	}
}
