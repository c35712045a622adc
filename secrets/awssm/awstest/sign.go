package awstest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
)

var authorization = regexp.MustCompile(`^AWS4-HMAC-SHA256 Credential=([^/]+)/([0-9]{8})/([a-z0-9-]+)/([a-z]+)/aws4_request, ?SignedHeaders=([a-z0-9;-]+), ?Signature=([0-9a-f]{64})$`)

// verify checks the signature of a request as AWS documents Signature Version 4:
// the canonical request is made again from what came.
func verify(r *http.Request, body []byte, service string) *fault {
	m := authorization.FindStringSubmatch(r.Header.Get("Authorization"))
	if m == nil {
		return &fault{http.StatusForbidden, "MissingAuthenticationTokenException", "Missing Authentication Token"}
	}
	id, day, region, scope, signed := m[1], m[2], m[3], m[4], strings.Split(m[5], ";")
	at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	switch {
	case id != AccessKey:
		return &fault{http.StatusForbidden, "UnrecognizedClientException", "The security token included in the request is invalid."}
	case err != nil || at.Format("20060102") != day || time.Since(at).Abs() > 5*time.Minute:
		return &fault{http.StatusForbidden, "InvalidSignatureException", "Signature expired"}
	case region != Region || scope != service:
		return &fault{http.StatusForbidden, "InvalidSignatureException", "Credential should be scoped to a valid region and service."}
	case !slices.IsSorted(signed) || !slices.Contains(signed, "host") || !slices.Contains(signed, "x-amz-target") || !slices.Contains(signed, "x-amz-date"):
		return &fault{http.StatusForbidden, "IncompleteSignature", "what matters is not signed"}
	}
	var canonical strings.Builder
	canonical.WriteString("POST\n/\n\n")
	for _, name := range signed {
		value := strings.Join(r.Header.Values(name), ",")
		if name == "host" {
			value = r.Host
		}
		if name == "content-length" {
			value = r.Header.Get("Content-Length")
		}
		canonical.WriteString(name + ":" + strings.TrimSpace(value) + "\n")
	}
	sum := sha256.Sum256(body)
	canonical.WriteString("\n" + m[5] + "\n" + hex.EncodeToString(sum[:]))
	whole := sha256.Sum256([]byte(canonical.String()))
	text := "AWS4-HMAC-SHA256\n" + r.Header.Get("X-Amz-Date") + "\n" + strings.Join([]string{day, region, scope, "aws4_request"}, "/") + "\n" + hex.EncodeToString(whole[:])
	key := []byte("AWS4" + SecretKey)
	for _, part := range []string{day, region, scope, "aws4_request", text} {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(part))
		key = h.Sum(nil)
	}
	if hex.EncodeToString(key) != m[6] {
		return &fault{http.StatusForbidden, "InvalidSignatureException", "The request signature we calculated does not match the signature you provided."}
	}
	return nil
}
