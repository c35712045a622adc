// Command edge is the least that a proxy in Go can be: TLS 1.3 in front, a pool
// of connections behind, and a pool of buffers between. Benchmarks run it beside
// Rampart's gateway, to tell what Go costs from what the checks cost.
package main

import (
	"crypto/tls"
	"flag"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
)

type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte  { return *b.pool.Get().(*[]byte) }
func (b *buffers) Put(p []byte) { b.pool.Put(&p) }

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address")
	to := flag.String("to", "", "http://HOST:PORT behind")
	cert, key := flag.String("cert", "", "PEM file"), flag.String("key", "", "PEM file")
	flag.Parse()
	target, err := url.Parse(*to)
	if err != nil {
		log.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{
		Rewrite:    func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport:  &http.Transport{MaxIdleConnsPerHost: 256},
		BufferPool: &buffers{sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}},
	}
	srv := &http.Server{Addr: *listen, Handler: proxy, TLSConfig: &tls.Config{MinVersion: tls.VersionTLS13}}
	log.Fatal(srv.ListenAndServeTLS(*cert, *key))
}
