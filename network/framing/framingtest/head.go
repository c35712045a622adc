package framingtest

import "strings"

func versionCases() []Case {
	return []Case{
		{"version-1", "RFC 9112 2.3", "HTTP/1.9", line("GET /_rampart/health HTTP/1.9"), 505, true, 12, 204},
		{"version-2", "RFC 9112 2.3", "HTTP/1.2", line("GET /_rampart/health HTTP/1.2"), 505, true, 12, 204},
		{"version-3", "RFC 9112 2.3", "HTTP/2.0", line("GET /_rampart/health HTTP/2.0"), 505, true, 12, 505},
		{"version-4", "RFC 9112 2.3", "HTTP/3.0", line("GET /_rampart/health HTTP/3.0"), 505, true, 12, 505},
		{"version-5", "RFC 9112 2.3", "HTTP/0.9", line("GET /_rampart/health HTTP/0.9"), 505, true, 12, 505},
		{"version-6", "RFC 9112 2.3", "HTTP/1.10", line("GET /_rampart/health HTTP/1.10"), 400, true, 26, 400},
		{"version-7", "RFC 9112 2.3", "HTTP/1.", line("GET /_rampart/health HTTP/1."), 400, true, 26, 400},
		{"version-8", "RFC 9112 2.3", "HTTP/11", line("GET /_rampart/health HTTP/11"), 400, true, 26, 400},
		{"version-9", "RFC 9112 2.3", "HTTP/01.1", line("GET /_rampart/health HTTP/01.1"), 400, true, 26, 400},
		{"version-10", "RFC 9112 2.3", "lower case", line("GET /_rampart/health http/1.1"), 400, true, 26, 400},
		{"version-11", "RFC 9112 2.3", "another protocol", line("GET /_rampart/health ICY/1.1"), 400, true, 26, 400},
		{"version-12", "RFC 9112 2.3", "none: HTTP/0.9", "GET /_rampart/health\r\n\r\n", 400, true, 26, 400},
		{"version-13", "RFC 9113 3.4", "the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, true, 16, 204},
		{"version-14", "RFC 9113 3.4", "PRI with a Host", line("PRI * HTTP/2.0"), 400, true, 16, 204},
	}
}

func lineCases() []Case {
	return []Case{
		{"line-1", "RFC 9112 3", "two spaces before the target", line("GET  /_rampart/health HTTP/1.1"), 400, true, 26, 400},
		{"line-2", "RFC 9112 3", "two spaces before the version", line("GET /_rampart/health  HTTP/1.1"), 400, true, 26, 400},
		{"line-3", "RFC 9112 3", "tab", line("GET\t/_rampart/health\tHTTP/1.1"), 400, true, 26, 400},
		{"line-4", "RFC 9112 3", "tab in the target", line("GET /_rampart/health\t HTTP/1.1"), 400, true, 26, 400},
		{"line-5", "RFC 9112 3", "trailing space", line("GET /_rampart/health HTTP/1.1 "), 400, true, 26, 400},
		{"line-6", "RFC 9112 3", "leading space", line(" GET /_rampart/health HTTP/1.1"), 400, true, 26, 400},
		{"line-7", "RFC 9112 3", "space in the target", line("GET /_rampart /health HTTP/1.1"), 400, true, 26, 400},
		{"line-8", "RFC 9112 3", "no target", line("GET HTTP/1.1"), 400, true, 26, 400},
		{"line-9", "RFC 9112 3", "an empty target", line("GET  HTTP/1.1"), 400, true, 26, 400},
		{"line-10", "RFC 9112 3", "a method that is no token", line("G(T /_rampart/health HTTP/1.1"), 400, true, 26, 400},
		{"line-11", "RFC 9112 3", "a method with NUL", line("G\x00T /_rampart/health HTTP/1.1"), 400, true, 26, 400},
		{"line-12", "RFC 9112 3", "a relative target", line("GET _rampart/health HTTP/1.1"), 400, true, 26, 400},
		{"line-13", "RFC 9112 2.2", "an empty line before it", "\r\nGET /_rampart/health HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, true, 27, 400},
		{"line-14", "RFC 9112 2.2", "LF before it", "\nGET /_rampart/health HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, true, 27, 400},
		{"line-15", "RFC 9112 3", "TLS inside TLS", "\x16\x03\x01\x00\x05hello\r\n", 400, true, 26, 400},
	}
}

func fieldCases() []Case {
	return []Case{
		{"field-1", "RFC 9112 5", "no colon", Get("X-A"), 400, true, 28, 400},
		{"field-2", "RFC 9112 5", "an empty name", Get(": a"), 400, true, 28, 400},
		{"field-3", "RFC 9112 5", "a space in the name", Get("X A: a"), 400, true, 28, 400},
		{"field-4", "RFC 9112 5", "UTF-8 in the name", Get("X-\xc3\xa4: a"), 400, true, 28, 400},
		{"field-5", "RFC 9112 5", "a quote in the name", Get("X\"A: a"), 400, true, 28, 400},
		{"field-6", "RFC 9112 5", "a slash in the name", Get("X/A: a"), 400, true, 28, 400},
		{"field-7", "RFC 9112 5", "NUL in the name", Get("X\x00A: a"), 400, true, 28, 400},
		{"field-8", "RFC 9110 5.5", "NUL in the value", Get("X-A: a\x00b"), 400, true, 29, 400},
		{"field-9", "RFC 9110 5.5", "0x01 in the value", Get("X-A: a\x01b"), 400, true, 29, 400},
		{"field-10", "RFC 9110 5.5", "VT in the value", Get("X-A: a\x0bb"), 400, true, 29, 400},
		{"field-11", "RFC 9110 5.5", "ESC in the value", Get("X-A: \x1b[2J"), 400, true, 29, 400},
		{"field-12", "RFC 9110 5.5", "DEL in the value", Get("X-A: a\x7f"), 400, true, 29, 400},
		{"field-13", "RFC 9110 5.5", "CR in the value", Get("X-A: a\rb"), 400, true, 29, 400},
		{"field-14", "RFC 3875 4.1.18", "an underscore in the name", Get("X_A: a"), 400, true, 18, 204},
		{"field-15", "RFC 3875 4.1.18", "an identity with underscores", Get("Rampart_Principal: a"), 400, true, 18, 204},
	}
}

func hostCases() []Case {
	return []Case{
		{"host-1", "RFC 9112 3.2", "missing", "GET /_rampart/health HTTP/1.1\r\n\r\n", 400, true, 17, 400},
		{"host-2", "RFC 9112 3.2", "missing in HTTP/1.0", "GET /_rampart/health HTTP/1.0\r\n\r\n", 400, true, 17, 204},
		{"host-3", "RFC 9112 3.2", "twice", Get("Host: localhost"), 400, true, 17, 400},
		{"host-4", "RFC 9112 3.2", "twice, another", Get("Host: evil.example"), 400, true, 17, 400},
		{"host-5", "RFC 9112 3.2", "twice, other case", Get("hOsT: evil.example"), 400, true, 17, 400},
		{"host-6", "RFC 9112 3.2", "empty", "GET /_rampart/health HTTP/1.1\r\nHost:\r\n\r\n", 400, true, 17, 204},
		{"host-7", "RFC 9112 3.2", "only spaces", "GET /_rampart/health HTTP/1.1\r\nHost:  \r\n\r\n", 400, true, 17, 204},
		{"host-8", "RFC 9112 3.2", "a space", "GET /_rampart/health HTTP/1.1\r\nHost: local host\r\n\r\n", 400, true, 17, 400},
		{"host-9", "RFC 9112 3.2", "userinfo", "GET /_rampart/health HTTP/1.1\r\nHost: user@localhost\r\n\r\n", 400, true, 17, 400},
		{"host-10", "RFC 9112 3.2", "a path", "GET /_rampart/health HTTP/1.1\r\nHost: localhost/x\r\n\r\n", 400, true, 17, 400},
		{"host-11", "RFC 9112 3.2", "a query", "GET /_rampart/health HTTP/1.1\r\nHost: localhost?x\r\n\r\n", 400, true, 17, 400},
		{"host-12", "RFC 9112 3.2", "a fragment", "GET /_rampart/health HTTP/1.1\r\nHost: localhost#x\r\n\r\n", 400, true, 17, 400},
		{"host-13", "RFC 9112 3.2", "two hosts", "GET /_rampart/health HTTP/1.1\r\nHost: localhost,evil.example\r\n\r\n", 400, true, 17, 204},
		{"host-14", "RFC 9112 3.2", "percent", "GET /_rampart/health HTTP/1.1\r\nHost: localhost%00\r\n\r\n", 400, true, 17, 204},
		{"host-15", "RFC 9112 3.2", "an underscore", "GET /_rampart/health HTTP/1.1\r\nHost: local_host\r\n\r\n", 400, true, 17, 204},
		{"host-16", "RFC 9112 3.2", "a scheme", "GET /_rampart/health HTTP/1.1\r\nHost: http://localhost\r\n\r\n", 400, true, 17, 400},
		{"host-17", "RFC 9112 3.2", "UTF-8", "GET /_rampart/health HTTP/1.1\r\nHost: caf\xc3\xa9.example\r\n\r\n", 400, true, 17, 400},
		{"host-18", "RFC 9112 3.2", "a backslash", "GET /_rampart/health HTTP/1.1\r\nHost: localhost\\x\r\n\r\n", 400, true, 17, 400},
		{"host-19", "RFC 9112 3.2", "a port that is none", "GET /_rampart/health HTTP/1.1\r\nHost: localhost:a\r\n\r\n", 400, false, 0, 204},
		{"host-20", "RFC 9112 3.2", "an empty port", "GET /_rampart/health HTTP/1.1\r\nHost: localhost:\r\n\r\n", 400, false, 0, 204},
		{"host-21", "RFC 9112 3.2", "two ports", "GET /_rampart/health HTTP/1.1\r\nHost: localhost:1:2\r\n\r\n", 400, false, 0, 204},
		{"host-22", "RFC 9112 3.2", "a port beyond 65535", "GET /_rampart/health HTTP/1.1\r\nHost: localhost:65536\r\n\r\n", 400, false, 0, 204},
		{"host-23", "RFC 9112 3.2", "an empty label", "GET /_rampart/health HTTP/1.1\r\nHost: local..host\r\n\r\n", 400, false, 0, 204},
		{"host-24", "RFC 9112 3.2", "a bracket left open", "GET /_rampart/health HTTP/1.1\r\nHost: [::1\r\n\r\n", 400, false, 0, 204},
		{"host-25", "RFC 9112 3.2", "IPv6 without brackets", "GET /_rampart/health HTTP/1.1\r\nHost: ::1\r\n\r\n", 400, false, 0, 204},
		{"host-26", "RFC 9110 7.4", "another host", "GET /_rampart/health HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421, false, 0, 204},
		{"host-27", "RFC 9110 7.4", "ours as a prefix", "GET /_rampart/health HTTP/1.1\r\nHost: localhost.evil.example\r\n\r\n", 421, false, 0, 204},
	}
}

func targetCases() []Case {
	return []Case{
		{"target-1", "RFC 9112 3.2.2, our own rule", "absolute-form, our host", line("GET https://localhost/_rampart/health HTTP/1.1"), 400, true, 14, 204},
		{"target-2", "RFC 9112 3.2", "absolute-form, another host", line("GET http://evil.example/ HTTP/1.1"), 400, true, 14, 204},
		{"target-3", "RFC 9112 3.2", "absolute-form, ftp", line("GET ftp://localhost/ HTTP/1.1"), 400, true, 14, 204},
		{"target-4", "RFC 9112 3.2", "absolute-form, userinfo", line("GET http://localhost@evil.example/ HTTP/1.1"), 400, true, 14, 204},
		{"target-5", "RFC 9112 3.2", "an opaque target", line("GET mailto:a@b HTTP/1.1"), 400, true, 14, 204},
		{"target-6", "RFC 9112 3.2.3", "CONNECT", "CONNECT localhost:443 HTTP/1.1\r\nHost: localhost:443\r\n\r\n", 405, true, 15, 204},
		{"target-7", "RFC 9112 3.2.3", "CONNECT of a path", line("CONNECT /_rampart/health HTTP/1.1"), 405, true, 15, 204},
		{"target-8", "RFC 9112 3.2.4", "GET *", line("GET * HTTP/1.1"), 405, true, 15, 204},
		{"target-9", "RFC 9112 3.2.4, our own rule", "OPTIONS *", line("OPTIONS * HTTP/1.1"), 405, true, 15, 204},
	}
}

func pathCases() []Case {
	return []Case{
		{"path-1", "RFC 3986 2, 3.3", "raw UTF-8", line("GET /caf\xc3\xa9 HTTP/1.1"), 400, true, 21, 204},
		{"path-2", "RFC 3986 2, 3.3", "0xff", line("GET /\xff HTTP/1.1"), 400, true, 21, 204},
		{"path-3", "RFC 3986 2, 3.3", "NUL", line("GET /\x00 HTTP/1.1"), 400, true, 21, 400},
		{"path-4", "RFC 3986 2, 3.3", "DEL", line("GET /\x7f HTTP/1.1"), 400, true, 21, 400},
		{"path-5", "RFC 3986 2, 3.3", "a fragment", line("GET /_rampart/health#x HTTP/1.1"), 400, true, 21, 204},
		{"path-6", "RFC 3986 2, 3.3", "a backslash", line("GET /_rampart\\health HTTP/1.1"), 400, true, 21, 204},
		{"path-7", "RFC 3986 2, 3.3", "a percent sign alone", line("GET /% HTTP/1.1"), 400, true, 21, 400},
		{"path-8", "RFC 3986 2, 3.3", "half an escape", line("GET /%2 HTTP/1.1"), 400, true, 21, 400},
		{"path-9", "RFC 3986 2, 3.3", "an escape that is none", line("GET /%zz HTTP/1.1"), 400, true, 21, 400},
		{"path-10", "RFC 3986 2, 3.3", "dot segments", line("GET /a/../_rampart/health HTTP/1.1"), 400, false, 0, 204},
		{"path-11", "RFC 3986 2, 3.3", "encoded dot segments", line("GET /a/%2e%2e/_rampart/health HTTP/1.1"), 400, false, 0, 204},
		{"path-12", "RFC 3986 2, 3.3", "encoded slash", line("GET /_rampart%2fhealth HTTP/1.1"), 400, false, 0, 204},
		{"path-13", "RFC 3986 2, 3.3", "encoded backslash", line("GET /_rampart%5chealth HTTP/1.1"), 400, false, 0, 204},
		{"path-14", "RFC 3986 2, 3.3", "an empty segment", line("GET //_rampart/health HTTP/1.1"), 400, false, 0, 204},
		{"path-15", "RFC 3986 2, 3.3", "a host in the path", line("GET //evil.example/ HTTP/1.1"), 400, false, 0, 204},
		{"path-16", "RFC 3986 2, 3.3", "NUL, encoded", line("GET /_rampart/health%00 HTTP/1.1"), 400, false, 0, 204},
		{"path-17", "RFC 3986 2, 3.3", "doubly encoded", line("GET /%255frampart/health HTTP/1.1"), 400, false, 0, 204},
		{"path-18", "RFC 3986 2, 3.3", "a parameter", line("GET /_rampart/health;a=b HTTP/1.1"), 400, false, 0, 204},
		{"path-19", "RFC 3986 2, 3.3", "overlong UTF-8", line("GET /%c0%ae%c0%ae/ HTTP/1.1"), 400, false, 0, 204},
		{"path-20", "RFC 3986 2, 3.3", "invalid UTF-8", line("GET /%ff HTTP/1.1"), 400, false, 0, 204},
		{"path-21", "RFC 3986 2, 3.3", "CRLF, encoded", line("GET /a%0d%0aX:y HTTP/1.1"), 400, false, 0, 204},
		{"path-22", "RFC 3986 2, 3.3", "an encoded question mark", line("GET /a%3fb HTTP/1.1"), 400, false, 0, 204},
	}
}

func queryCases() []Case {
	return []Case{
		{"query-1", "RFC 3986 3.4", "a percent sign alone", line("GET /_rampart/health?a=% HTTP/1.1"), 400, true, 22, 204},
		{"query-2", "RFC 3986 3.4", "an escape that is none", line("GET /_rampart/health?a=%zz HTTP/1.1"), 400, true, 22, 204},
		{"query-3", "RFC 3986 3.4", "raw UTF-8", line("GET /_rampart/health?a=\xc3\xa9 HTTP/1.1"), 400, true, 22, 204},
		{"query-4", "RFC 3986 3.4", "a fragment", line("GET /_rampart/health?a=b#c HTTP/1.1"), 400, true, 22, 204},
		{"query-5", "RFC 3986 3.4", "NUL", line("GET /_rampart/health?a=\x00 HTTP/1.1"), 400, true, 22, 400},
		{"query-6", "RFC 3986 3.4", "a semicolon", line("GET /_rampart/health?a=1;b=2 HTTP/1.1"), 400, false, 0, 204},
		{"query-7", "RFC 3986 3.4", "NUL, encoded", line("GET /_rampart/health?a=%00 HTTP/1.1"), 400, false, 0, 204},
		{"query-8", "RFC 3986 3.4", "invalid UTF-8, encoded", line("GET /_rampart/health?a=%ff HTTP/1.1"), 400, false, 0, 204},
	}
}

func methodCases() []Case {
	return []Case{
		{"method-1", "RFC 9110 9.1", "lower case", line("get /_rampart/health HTTP/1.1"), 405, false, 0, 204},
		{"method-2", "RFC 9110 9.1", "any token", line("G!T /_rampart/health HTTP/1.1"), 405, false, 0, 204},
		{"method-3", "RFC 9110 9.1", "TRACE", line("TRACE /_rampart/health HTTP/1.1"), 405, false, 0, 204},
		{"method-4", "RFC 9110 9.1", "TRACK", line("TRACK /_rampart/health HTTP/1.1"), 405, false, 0, 204},
		{"method-5", "RFC 9110 9.1", "PROPFIND", line("PROPFIND /_rampart/health HTTP/1.1"), 405, false, 0, 204},
	}
}

func bodyCases() []Case {
	return []Case{
		{"body-1", "RFC 9110 9.3", "on GET", "GET /_rampart/health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello", 400, true, 0, 204},
		{"body-2", "RFC 9110 9.3", "on GET, chunked", "GET /_rampart/health HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, true, 0, 204},
		{"body-3", "RFC 9110 9.3", "on HEAD", "HEAD /_rampart/health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello", 400, true, 0, 204},
		{"body-4", "RFC 9110 9.3", "on DELETE", "DELETE /_rampart/health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello", 400, true, 0, 204},
		{"body-5", "RFC 9110 9.3", "on OPTIONS", "OPTIONS /_rampart/health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello", 400, true, 0, 204},
		{"body-6", "RFC 9110 9.3", "on GET, hides a request", "GET /_rampart/health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 43\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, true, 0, 204},
	}
}

func singleCases() []Case {
	return []Case{
		{"single-1", "RFC 9110 5.3", "two Authorization", Get("Authorization: Bearer a", "Authorization: Bearer b"), 400, false, 0, 204},
		{"single-2", "RFC 9110 5.3", "two Cookie", Get("Cookie: a=b", "Cookie: a=c"), 400, false, 0, 204},
		{"single-3", "RFC 9110 5.3", "two Content-Type", Post("{}", "Content-Length: 2", "Content-Type: application/json", "content-type: text/plain"), 400, true, 0, 204},
		{"single-4", "RFC 9110 5.3", "two Origin", Get("Origin: https://localhost", "Origin: https://evil.example"), 400, false, 0, 204},
		{"single-5", "RFC 9110 5.3", "two of a field that nobody knows", Get("X-A: a", "X-a: b"), 400, false, 0, 204},
		{"single-6", "RFC 9110 5.5", "bytes outside ASCII in Authorization", Get("Authorization: Bearer \xff"), 400, false, 0, 204},
		{"single-7", "RFC 9110 5.5", "bytes outside ASCII in Cookie", Get("Cookie: a=\xe9"), 400, false, 0, 204},
		{"single-8", "RFC 9110 5.5", "UTF-8 in a field that nobody knows", Get("X-A: caf\xc3\xa9"), 400, false, 0, 204},
	}
}

func upgradeCases() []Case {
	return []Case{
		{"upgrade-1", "RFC 9113 3.1", "h2c", Get("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"), 400, false, 0, 204},
		{"upgrade-2", "RFC 9113 3.1", "h2c without settings", Get("Connection: Upgrade", "Upgrade: h2c"), 400, false, 0, 204},
		{"upgrade-3", "RFC 9113 3.1", "settings alone", Get("HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"), 400, false, 0, 204},
		{"upgrade-4", "RFC 9110 7.8", "websocket", Get("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="), 400, false, 0, 204},
		{"upgrade-5", "RFC 9110 7.8", "TLS", Get("Connection: Upgrade", "Upgrade: TLS/1.2"), 400, false, 0, 204},
	}
}

func expectCases() []Case {
	return []Case{
		{"expect-1", "RFC 9110 10.1.1", "unknown", Post("", "Content-Length: 0", "Expect: 200-ok"), 417, true, 33, 417},
		{"expect-2", "RFC 9110 10.1.1", "two", Post("", "Content-Length: 0", "Expect: 100-continue, x"), 417, true, 33, 204},
		{"expect-3", "RFC 9110 10.1.1", "empty", Post("", "Content-Length: 0", "Expect:"), 417, true, 33, 204},
	}
}

func largeCases() []Case {
	return []Case{
		{"large-1", "RFC 6585 5", "one field", Get("X-A: " + strings.Repeat("a", 40<<10)), 431, true, 34, 431},
		{"large-2", "RFC 6585 5", "many fields", Get(strings.Split(strings.Repeat("X-A: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n", 1000)+"X-B: b", "\r\n")...), 431, true, 34, 431},
		{"large-3", "RFC 6585 5", "a target", line("GET /" + strings.Repeat("a", 40<<10) + " HTTP/1.1"), 431, true, 34, 431},
	}
}
