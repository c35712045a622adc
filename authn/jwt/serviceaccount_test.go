package jwt_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart/authn/jwt"
)

// TestServiceAccount: a projected token of this cluster for us counts, and nothing
// that only looks like one.
func TestServiceAccount(t *testing.T) {
	p := newRSAParty(t)
	now := time.Unix(1_900_000_000, 0)
	v := jwt.NewServiceAccount(jwt.ForeignOptions{
		Keys: p.source, Issuer: "https://k8s.example", Audience: "rampart", Algorithms: []jwt.Algorithm{jwt.RS256}, Now: func() time.Time { return now },
	})
	const header = `{"alg":"RS256","kid":"rs"}` // as clusters write it, without typ
	claims := func(change ...string) string {
		c := fmt.Sprintf(`{"aud":["rampart"],"exp":%d,"iat":%d,"iss":"https://k8s.example","jti":"x","kubernetes.io":{"namespace":"shop","node":{"name":"n"},"pod":{"name":"p","uid":"u"},"serviceaccount":{"name":"orders","uid":"u"}},"nbf":%d,"sub":"system:serviceaccount:shop:orders"}`,
			now.Unix()+3600, now.Unix(), now.Unix())
		for i := 0; i+1 < len(change); i += 2 {
			if !strings.Contains(c, change[i]) {
				t.Fatalf("no %q", change[i])
			}
			c = strings.Replace(c, change[i], change[i+1], 1)
		}
		return c
	}
	for name, row := range map[string]struct {
		token, want string
	}{
		"a token":               {p.rs256(header, claims()), "shop/orders"},
		"with a type":           {p.rs256(`{"alg":"RS256","kid":"rs","typ":"JWT"}`, claims()), "shop/orders"},
		"another audience":      {p.rs256(header, claims(`"rampart"`, `"https://kubernetes.default.svc"`)), ""},
		"two audiences":         {p.rs256(header, claims(`"rampart"`, `"rampart","vault"`)), ""},
		"no audience":           {p.rs256(header, claims(`"aud":["rampart"],`, "")), ""},
		"another cluster":       {p.rs256(header, claims("k8s.example", "k8s.other")), ""},
		"expired":               {p.rs256(header, claims(`"exp":1900003600`, `"exp":1899999900`, `"iat":1900000000`, `"iat":1899996400`)), ""},
		"never expires":         {p.rs256(header, claims(`"exp":1900003600,`, "")), ""},
		"lives a week":          {p.rs256(header, claims(`"exp":1900003600`, `"exp":1900604800`)), ""},
		"not yet":               {p.rs256(header, claims(`"nbf":1900000000`, `"nbf":1900000600`)), ""},
		"a user":                {p.rs256(header, claims("system:serviceaccount:shop:orders", "system:admin")), ""},
		"no name":               {p.rs256(header, claims("serviceaccount:shop:orders", "serviceaccount:shop")), ""},
		"one name too many":     {p.rs256(header, claims("shop:orders", "shop:orders:x")), ""},
		"two accounts":          {p.rs256(header, claims(`"name":"orders","uid"`, `"name":"payments","uid"`)), ""},
		"two namespaces":        {p.rs256(header, claims(`"namespace":"shop"`, `"namespace":"bank"`)), ""},
		"an access token":       {p.rs256(`{"alg":"RS256","kid":"rs","typ":"at+jwt"}`, claims()), ""},
		"signed by somebody":    {newRSAParty(t).rs256(header, claims()), ""},
		"an algorithm not ours": {p.ps256(`{"alg":"PS256","kid":"ps"}`, claims(), 32), ""},
		"none":                  {b64(`{"alg":"none"}`) + "." + b64(claims()) + ".", ""},
		"nothing":               {"", ""},
	} {
		if got, err := v.Verify(t.Context(), row.token); got != row.want || (err == nil) != (row.want != "") {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}
