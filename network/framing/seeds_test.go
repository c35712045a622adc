package framing

// seeds are requests of every kind, good and bad; package framingtest, which has
// more, is not to be had here.
func seeds() []string {
	const head = " HTTP/1.1\r\nHost: localhost\r\n"
	return []string{
		"GET /" + head + "\r\n",
		"POST /a?b=%20c" + head + "Content-Length: 5\r\n\r\nhello",
		"POST /" + head + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
		"POST /" + head + "Expect: 100-continue\r\nContent-Length: 1\r\n\r\na",
		"POST /" + head + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"POST / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"POST /" + head + "Transfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nX: y\r\n\r\n",
		"POST /" + head + "Content-Length: 05\r\nContent-Length: 5\r\n\r\nhello",
		"GET /" + head + "X-A: a\r\n b\r\nX_B: c\r\n\r\n",
		"\r\nGET /\n" + head + "Connection: close\r\n\r\n",
		"CONNECT a:1" + head + "\r\n", "OPTIONS *" + head + "\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
	}
}
