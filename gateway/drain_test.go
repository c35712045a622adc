package gateway

import (
	"bufio"
	"crypto/tls"
	"io"
	"net/http"
	"testing"
	"time"
)

// A gateway that goes down closes what waits over HTTP/1.1 at once: a request of
// HTTP/2 that is still answered does not take the time for both.
func TestDrainTogether(t *testing.T) {
	h := open(t)
	ann := h.token("ann", "app")
	asked, answer := make(chan struct{}), make(chan struct{})
	h.serve(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept") == "x/slow" {
			close(asked)
			<-answer
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{}`)
	})
	cfg := h.client.Transport.(*http.Transport).TLSClientConfig.Clone()
	cfg.NextProtos = []string{"http/1.1"}
	idle, err := tls.Dial("tcp", h.gw.Addr(), cfg)
	must(t, err)
	defer idle.Close()
	must(t, idle.SetDeadline(time.Now().Add(time.Minute)))
	_, err = io.WriteString(idle, "GET /orders/o1 HTTP/1.1\r\nHost: "+h.gw.Addr()+"\r\nAuthorization: "+ann+"\r\n\r\n")
	must(t, err)
	in := bufio.NewReader(idle)
	res, err := http.ReadResponse(in, nil)
	must(t, err)
	if _, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != http.StatusOK || res.Close {
		t.Fatalf("%s, closes: %v, %v", res.Status, res.Close, err)
	}

	ended := make(chan struct{})
	go func() {
		defer close(ended)
		req, err := http.NewRequest(http.MethodGet, "https://"+h.gw.Addr()+"/orders/o1", nil)
		if err != nil {
			t.Error(err)
			return
		}
		req.Header.Set("Authorization", ann)
		req.Header.Set("Accept", "x/slow")
		if res, err := h.client.Do(req); err == nil {
			res.Body.Close()
		}
	}()
	<-asked
	go h.stop()
	_, _ = in.ReadByte() // whatever it says, the connection has ended
	select {
	case <-ended:
		t.Error("the idle connection was open for as long as a request of HTTP/2 could be answered")
	default:
	}
	close(answer)
	<-ended
}
