// Package awstest plays Secrets Manager and KMS of AWS, for tests: JSON 1.1 over
// TLS, every request with its signature (Signature Version 4) checked, versions
// with their stages, throttling, keys with encryption contexts. It keeps to the
// public API reference in what clients can tell; accounts, policies and regions
// beyond one it does not know.
package awstest

import (
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// Credentials that the fake believes.
const (
	Region    = "eu-central-1"
	AccessKey = "AKIDTEST"
	SecretKey = "awstest-secret-key"
)

const maxBody = 1 << 20

// Server is one account in one region. Its methods may be called concurrently.
type Server struct {
	*httptest.Server
	t testing.TB

	mu       sync.Mutex // guards what follows
	now      time.Time  // steps with each change, so that creation dates differ
	secrets  map[string]*secret
	keys     map[string]*key
	denied   map[string]bool
	down     bool
	hang     bool
	released chan struct{} // closed when it no longer hangs
	throttle int           // requests that are still refused
	calls    map[string]int
}

// New starts a server that ends with the test.
func New(t testing.TB) *Server {
	s := &Server{t: t, now: time.Unix(1700000000, 0), secrets: map[string]*secret{}, keys: map[string]*key{}, denied: map[string]bool{}, calls: map[string]int{}}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(func() { s.Hang(false); s.Close() })
	return s
}

// CA returns the certificate that vouches for the server, in PEM.
func (s *Server) CA() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
}

// Down makes the server answer 503 to everything, or no longer.
func (s *Server) Down(down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = down
}

// Hang makes the server keep callers waiting, or no longer.
func (s *Server) Hang(hang bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hang && !hang {
		close(s.released)
	}
	if hang {
		s.released = make(chan struct{})
	}
	s.hang = hang
}

// Throttle refuses the next n requests.
func (s *Server) Throttle(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.throttle = n
}

// Deny refuses a secret or key to everybody.
func (s *Server) Deny(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.denied[id] = true
}

// Calls returns how often an action was asked for, such as GetSecretValue.
func (s *Server) Calls(action string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[action]
}

// fault is an error as AWS answers it.
type fault struct {
	status     int
	kind, text string
}

func bad(kind, text string) *fault { return &fault{http.StatusBadRequest, kind, text} }

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
	if err != nil {
		return
	}
	s.mu.Lock()
	hang, released := s.hang, s.released
	s.mu.Unlock()
	if hang {
		select {
		case <-released:
		case <-r.Context().Done():
			return
		}
	}
	answer, f := s.encoded(r, body)
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.Header().Set("X-Amzn-Requestid", "0e4a1d1c-0000-4000-8000-000000000000")
	if f != nil {
		w.WriteHeader(f.status)
		json.NewEncoder(w).Encode(map[string]string{"__type": f.kind, "message": f.text})
		return
	}
	w.Write(answer)
}

// encoded judges a call and writes its answer down while nobody changes what it
// tells of.
func (s *Server) encoded(r *http.Request, body []byte) ([]byte, *fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	answer, f := s.judgeLocked(r, body)
	if f != nil {
		return nil, f
	}
	text, err := json.Marshal(answer)
	if err != nil {
		return nil, &fault{http.StatusInternalServerError, "InternalServiceError", err.Error()}
	}
	return text, nil
}

func (s *Server) judgeLocked(r *http.Request, body []byte) (any, *fault) {
	service, action, ok := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	s.calls[action]++
	switch {
	case s.down:
		return nil, &fault{http.StatusServiceUnavailable, "ServiceUnavailable", "down"}
	case r.Method != http.MethodPost || r.URL.Path != "/" || r.Header.Get("Content-Type") != "application/x-amz-json-1.1" || !ok:
		return nil, bad("UnknownOperationException", "not JSON 1.1")
	}
	if f := verify(r, body, map[string]string{"secretsmanager": "secretsmanager", "TrentService": "kms"}[service]); f != nil {
		return nil, f
	}
	if s.throttle > 0 {
		s.throttle--
		return nil, bad("ThrottlingException", "Rate exceeded")
	}
	call, ok := map[string]func([]byte) (any, *fault){
		"secretsmanager.GetSecretValue":       s.getSecretValue,
		"secretsmanager.PutSecretValue":       s.putSecretValue,
		"secretsmanager.CreateSecret":         s.createSecret,
		"secretsmanager.DeleteSecret":         s.deleteSecret,
		"secretsmanager.ListSecrets":          s.listSecrets,
		"secretsmanager.ListSecretVersionIds": s.listVersions,
		"TrentService.Encrypt":                s.encrypt,
		"TrentService.Decrypt":                s.decrypt,
		"TrentService.ReEncrypt":              s.reEncrypt,
		"TrentService.DescribeKey":            s.describeKey,
	}[service+"."+action]
	if !ok {
		return nil, bad("UnknownOperationException", action)
	}
	return call(body)
}

// in reads a request, strictly: a name that the API has not is our client's slip.
func in[T any](body []byte) (T, *fault) {
	var v T
	d := json.NewDecoder(strings.NewReader(string(body)))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		return v, bad("SerializationException", err.Error())
	}
	return v, nil
}

func (s *Server) tick() time.Time {
	s.now = s.now.Add(time.Second)
	return s.now
}
