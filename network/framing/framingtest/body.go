package framingtest

func bothCases() []Case {
	return []Case{
		{"both-1", "RFC 9112 6.1", "length, then coding", Post("0\r\n\r\n", "Content-Length: 5", "Transfer-Encoding: chunked"), 400, true, 1, 204},
		{"both-2", "RFC 9112 6.1", "coding, then length", Post("0\r\n\r\n", "Transfer-Encoding: chunked", "Content-Length: 5"), 400, true, 1, 204},
		{"both-3", "RFC 9112 6.1", "length that hides a request", Post("0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n", "Content-Length: 5", "Transfer-Encoding: chunked"), 400, true, 1, 204},
		{"both-4", "RFC 9112 6.1", "length 0 beside coding", Post("0\r\n\r\n", "Content-Length: 0", "Transfer-Encoding: chunked"), 400, true, 1, 204},
		{"both-5", "RFC 9112 6.1", "in other case", Post("0\r\n\r\n", "content-length: 5", "TRANSFER-ENCODING: Chunked"), 400, true, 1, 204},
	}
}

func oldCases() []Case {
	return []Case{
		{"old-1", "RFC 9112 6.1", "coding in HTTP/1.0", "POST /_rampart/health HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, true, 2, 204},
		{"old-2", "RFC 9112 6.1", "coding in HTTP/1.0 hides a request", "POST /_rampart/health HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, true, 2, 204},
		{"old-3", "RFC 9112 6.1", "any coding in HTTP/1.0", "POST /_rampart/health HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n", 400, true, 2, 204},
		{"old-4", "RFC 9112 6.1", "coding and length in HTTP/1.0", "POST /_rampart/health HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400, true, 3, 204},
		{"old-5", "RFC 9110 2.5, our own rule", "HTTP/1.0 itself", "GET /_rampart/health HTTP/1.0\r\nHost: localhost\r\n\r\n", 400, true, 0, 204},
		{"old-6", "RFC 9110 2.5, our own rule", "HTTP/1.0 kept alive", "GET /_rampart/health HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n", 400, false, 0, 204},
	}
}

func twiceCases() []Case {
	return []Case{
		{"twice-1", "RFC 9112 6.3", "equal lengths", Post("hello", "Content-Length: 5", "Content-Length: 5"), 400, true, 4, 204},
		{"twice-2", "RFC 9112 6.3", "different lengths", Post("hello", "Content-Length: 5", "Content-Length: 3"), 400, true, 4, 400},
		{"twice-3", "RFC 9112 6.3", "different lengths, other case", Post("hello", "Content-Length: 3", "content-length: 5"), 400, true, 4, 400},
		{"twice-4", "RFC 9112 6.3", "0 twice", Post("", "Content-Length: 0", "Content-Length: 0"), 400, true, 4, 204},
	}
}

func zerosCases() []Case {
	return []Case{
		{"zeros-1", "RFC 9112 6.3", "0005", Post("hello", "Content-Length: 0005"), 400, true, 5, 204},
		{"zeros-2", "RFC 9112 6.3", "05", Post("hello", "Content-Length: 05"), 400, true, 5, 204},
		{"zeros-3", "RFC 9112 6.3", "00", Post("", "Content-Length: 00"), 400, true, 5, 204},
	}
}

func lengthCases() []Case {
	return []Case{
		{"length-1", "RFC 9112 6.3", "no number", Post("hello", "Content-Length: five"), 400, true, 30, 400},
		{"length-2", "RFC 9112 6.3", "empty", Post("", "Content-Length: "), 400, true, 30, 400},
		{"length-3", "RFC 9112 6.3", "a list of equal ones", Post("hey", "Content-Length: 3, 3"), 400, true, 30, 400},
		{"length-4", "RFC 9112 6.3", "a list of different ones", Post("hello", "Content-Length: 3, 5"), 400, true, 30, 400},
		{"length-5", "RFC 9112 6.3", "plus", Post("hey", "Content-Length: +3"), 400, true, 30, 400},
		{"length-6", "RFC 9112 6.3", "minus", Post("hey", "Content-Length: -3"), 400, true, 30, 400},
		{"length-7", "RFC 9112 6.3", "minus zero", Post("", "Content-Length: -0"), 400, true, 30, 400},
		{"length-8", "RFC 9112 6.3", "hexadecimal", Post("hello", "Content-Length: 0x5"), 400, true, 30, 400},
		{"length-9", "RFC 9112 6.3", "decimal point", Post("hello", "Content-Length: 5.0"), 400, true, 30, 400},
		{"length-10", "RFC 9112 6.3", "exponent", Post("hello", "Content-Length: 5e0"), 400, true, 30, 400},
		{"length-11", "RFC 9112 6.3", "underscore", Post("hello", "Content-Length: 0_5"), 400, true, 30, 400},
		{"length-12", "RFC 9112 6.3", "space within", Post("hello", "Content-Length: 1 5"), 400, true, 30, 400},
		{"length-13", "RFC 9112 6.3", "more than 63 bits", Post("", "Content-Length: 18446744073709551616"), 400, true, 30, 400},
		{"length-14", "RFC 9112 6.3", "2^64 + 5", Post("hello", "Content-Length: 18446744073709551621"), 400, true, 30, 400},
		{"length-15", "RFC 9112 6.3", "quoted", Post("hello", "Content-Length: \"5\""), 400, true, 30, 400},
		{"length-16", "RFC 9112 6.3", "semicolon", Post("hello", "Content-Length: 5;"), 400, true, 30, 400},
		{"length-17", "RFC 9112 6.3", "Arabic digit", Post("hello", "Content-Length: \xd9\xa5"), 400, true, 30, 400},
	}
}

func codingCases() []Case {
	return []Case{
		{"coding-1", "RFC 9112 6.1", "identity", Post("", "Transfer-Encoding: identity"), 501, true, 31, 501},
		{"coding-2", "RFC 9112 6.1", "gzip", Post("", "Transfer-Encoding: gzip"), 501, true, 31, 501},
		{"coding-3", "RFC 9112 6.1", "gzip, chunked", Post("0\r\n\r\n", "Transfer-Encoding: gzip, chunked"), 501, true, 31, 501},
		{"coding-4", "RFC 9112 6.1", "chunked, gzip", Post("0\r\n\r\n", "Transfer-Encoding: chunked, gzip"), 501, true, 31, 501},
		{"coding-5", "RFC 9112 6.1", "chunked, chunked", Post("0\r\n\r\n", "Transfer-Encoding: chunked, chunked"), 501, true, 31, 501},
		{"coding-6", "RFC 9112 6.1", "chunked, identity", Post("0\r\n\r\n", "Transfer-Encoding: chunked, identity"), 501, true, 31, 501},
		{"coding-7", "RFC 9112 6.1", "trailing comma", Post("0\r\n\r\n", "Transfer-Encoding: chunked,"), 501, true, 31, 501},
		{"coding-8", "RFC 9112 6.1", "leading comma", Post("0\r\n\r\n", "Transfer-Encoding: ,chunked"), 501, true, 31, 501},
		{"coding-9", "RFC 9112 6.1", "empty", Post("0\r\n\r\n", "Transfer-Encoding: "), 501, true, 31, 501},
		{"coding-10", "RFC 9112 6.1", "twice", Post("0\r\n\r\n", "Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), 501, true, 31, 501},
		{"coding-11", "RFC 9112 6.1", "twice, the second other", Post("0\r\n\r\n", "Transfer-Encoding: chunked", "Transfer-Encoding: identity"), 501, true, 31, 501},
		{"coding-12", "RFC 9112 6.1", "quoted", Post("0\r\n\r\n", "Transfer-Encoding: \"chunked\""), 501, true, 31, 501},
		{"coding-13", "RFC 9112 6.1", "with a parameter", Post("0\r\n\r\n", "Transfer-Encoding: chunked;q=1"), 501, true, 31, 501},
		{"coding-14", "RFC 9112 6.1", "misspelled", Post("0\r\n\r\n", "Transfer-Encoding: xchunked"), 501, true, 31, 501},
		{"coding-15", "RFC 9112 6.1", "long s", Post("0\r\n\r\n", "Transfer-Encoding: chun\xe2\x84\xaaed"), 501, true, 31, 501},
		{"coding-16", "RFC 9112 6.1", "colon", Post("0\r\n\r\n", "Transfer-Encoding:: chunked"), 501, true, 31, 501},
	}
}

func spellingCases() []Case {
	return []Case{
		{"spelling-1", "RFC 9110 5.5, 5.6.2", "VT before chunked", Post("0\r\n\r\n", "Transfer-Encoding: \x0bchunked"), 400, true, 29, 400},
		{"spelling-2", "RFC 9110 5.5, 5.6.2", "FF before chunked", Post("0\r\n\r\n", "Transfer-Encoding: \x0cchunked"), 400, true, 29, 400},
		{"spelling-3", "RFC 9110 5.5, 5.6.2", "NUL after chunked", Post("0\r\n\r\n", "Transfer-Encoding: chunked\x00"), 400, true, 29, 400},
		{"spelling-4", "RFC 9110 5.5, 5.6.2", "DEL after chunked", Post("0\r\n\r\n", "Transfer-Encoding: chunked\x7f"), 400, true, 29, 400},
		{"spelling-5", "RFC 9110 5.5, 5.6.2", "CR within", Post("0\r\n\r\n", "Transfer-Encoding: chun\rked"), 400, true, 29, 400},
		{"spelling-6", "RFC 9112 5.1", "space before the colon", Post("0\r\n\r\n", "Transfer-Encoding : chunked"), 400, true, 28, 400},
		{"spelling-7", "RFC 9112 5.1", "tab before the colon", Post("0\r\n\r\n", "Transfer-Encoding\t: chunked"), 400, true, 28, 400},
		{"spelling-8", "RFC 3875 4.1.18", "underscore", Post("0\r\n\r\n", "Transfer_Encoding: chunked"), 400, true, 18, 204},
		{"spelling-9", "RFC 9112 5.2", "space before the name", Post("0\r\n\r\n", " Transfer-Encoding: chunked"), 400, true, 6, 400},
		{"spelling-10", "RFC 9110 5.5, 5.6.2", "VT before the name", Post("0\r\n\r\n", "\x0bTransfer-Encoding: chunked"), 400, true, 28, 400},
		{"spelling-11", "RFC 9110 5.5, 5.6.2", "NUL in the name", Post("0\r\n\r\n", "Transfer-\x00Encoding: chunked"), 400, true, 28, 400},
		{"spelling-12", "RFC 9110 5.5, 5.6.2", "CR before the colon", Post("0\r\n\r\n", "Transfer-Encoding\r: chunked"), 400, true, 28, 400},
		{"spelling-13", "RFC 9110 5.5, 5.6.2", "NBSP before the colon", Post("0\r\n\r\n", "Transfer-Encoding\xa0: chunked"), 400, true, 28, 400},
		{"spelling-14", "RFC 9110 5.5, 5.6.2", "CR before the name", Post("0\r\n\r\n", "\rTransfer-Encoding: chunked"), 400, true, 28, 400},
		{"spelling-15", "RFC 9110 5.5, 5.6.2", "byte order mark", Post("0\r\n\r\n", "\xef\xbb\xbfTransfer-Encoding: chunked"), 400, true, 28, 400},
		{"spelling-16", "RFC 9112 5.1", "space in Content-Length", Post("hello", "Content-Length : 5"), 400, true, 28, 400},
		{"spelling-17", "RFC 3875 4.1.2", "Content_Length", Post("hello", "Content_Length: 5"), 400, true, 18, 204},
	}
}

func foldCases() []Case {
	return []Case{
		{"fold-1", "RFC 9112 5.2", "a value on two lines", Get("X-A: a", " b"), 400, true, 6, 204},
		{"fold-2", "RFC 9112 5.2", "tab", Get("X-A: a", "\tb"), 400, true, 6, 204},
		{"fold-3", "RFC 9112 5.2", "chunked on the next line", Post("0\r\n\r\n", "Transfer-Encoding:", " chunked"), 501, true, 31, 204},
		{"fold-4", "RFC 9112 5.2", "chunked on the next line, tab", Post("0\r\n\r\n", "Transfer-Encoding:", "\tchunked"), 501, true, 31, 204},
		{"fold-5", "RFC 9112 5.2", "length on the next line", Post("hello", "Content-Length:", " 5"), 400, true, 30, 204},
		{"fold-6", "RFC 9112 5.2", "coding hidden in a fold", Post("0\r\n\r\n", "X-A: a", " Transfer-Encoding: chunked"), 400, true, 6, 204},
		{"fold-7", "RFC 9112 5.2", "a line of a space", Get("X-A: a", " "), 400, true, 6, 204},
		{"fold-8", "RFC 9112 5.2", "before the first field", "GET /_rampart/health HTTP/1.1\r\n Host: localhost\r\n\r\n", 400, true, 6, 400},
	}
}

func lfCases() []Case {
	return []Case{
		{"lf-1", "RFC 9112 2.2", "every line", "GET /_rampart/health HTTP/1.1\nHost: localhost\n\n", 400, true, 7, 204},
		{"lf-2", "RFC 9112 2.2", "the request line", "GET /_rampart/health HTTP/1.1\nHost: localhost\r\n\r\n", 400, true, 7, 204},
		{"lf-3", "RFC 9112 2.2", "a field line", "GET /_rampart/health HTTP/1.1\r\nHost: localhost\n\r\n", 400, true, 7, 204},
		{"lf-4", "RFC 9112 2.2", "the empty line", "GET /_rampart/health HTTP/1.1\r\nHost: localhost\r\n\n", 400, true, 7, 204},
		{"lf-5", "RFC 9112 2.2", "before a coding", "POST /_rampart/health HTTP/1.1\r\nHost: localhost\r\nX-A: a\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, true, 7, 204},
		{"lf-6", "RFC 9112 2.2", "within a value", Post("0\r\n\r\n", "X-A: a\nTransfer-Encoding: chunked"), 400, true, 7, 204},
		{"lf-7", "RFC 9112 2.2", "CR CR LF", "GET /_rampart/health HTTP/1.1\r\nHost: localhost\r\r\n\r\n", 400, true, 29, 400},
		{"lf-8", "RFC 9112 2.2", "CR alone ends a line", "GET /_rampart/health HTTP/1.1\r\nHost: localhost\rX: y\r\n\r\n", 400, true, 29, 400},
	}
}

func chunkCases() []Case {
	return []Case{
		{"chunk-1", "RFC 9112 7.1", "no digits", chunked("xyz\r\n"), 400, true, 32, 0},
		{"chunk-2", "RFC 9112 7.1", "empty", chunked("\r\n0\r\n\r\n"), 400, true, 32, 0},
		{"chunk-3", "RFC 9112 7.1", "0x", chunked("0x3\r\nabc\r\n0\r\n\r\n"), 400, true, 32, 0},
		{"chunk-4", "RFC 9112 7.1", "minus", chunked("-3\r\nabc\r\n0\r\n\r\n"), 400, true, 32, 0},
		{"chunk-5", "RFC 9112 7.1", "plus", chunked("+3\r\nabc\r\n0\r\n\r\n"), 400, true, 32, 0},
		{"chunk-6", "RFC 9112 7.1", "bare LF after the size", chunked("3\nabc\r\n0\r\n\r\n"), 400, true, 32, 0},
		{"chunk-7", "RFC 9112 7.1", "bare CR after the size", chunked("3\rabc\r\n0\r\n\r\n"), 400, true, 32, 0},
		{"chunk-8", "RFC 9112 7.1", "bare LF after the data", chunked("3\r\nabc\n0\r\n\r\n"), 400, true, 32, 0},
		{"chunk-9", "RFC 9112 7.1", "no CRLF after the data", chunked("3\r\nabc0\r\n\r\n"), 400, true, 32, 0},
		{"chunk-10", "RFC 9112 7.1", "more data than the size", chunked("3\r\nabcd\r\n0\r\n\r\n"), 400, true, 32, 0},
		{"chunk-11", "RFC 9112 7.1", "size with an underscore", chunked("1_0\r\n"), 400, true, 32, 0},
		{"chunk-12", "RFC 9112 7.1", "a fullwidth digit", chunked("\xef\xbc\x93\r\nabc\r\n0\r\n\r\n"), 400, true, 32, 0},
		{"chunk-13", "RFC 9112 7.1", "two sizes", chunked("3 3\r\nabc\r\n0\r\n\r\n"), 400, true, 32, 0},
		{"chunk-14", "RFC 9112 7.1", "leading space", chunked(" 3\r\nabc\r\n0\r\n\r\n"), 400, true, 10, 0},
		{"chunk-15", "RFC 9112 7.1", "trailing space", chunked("3 \r\nabc\r\n0\r\n\r\n"), 400, true, 10, 204},
		{"chunk-16", "RFC 9112 7.1", "trailing tab", chunked("3\t\r\nabc\r\n0\r\n\r\n"), 400, true, 10, 204},
		{"chunk-17", "RFC 9112 7.1", "leading zeros", chunked("003\r\nabc\r\n0\r\n\r\n"), 400, true, 10, 204},
		{"chunk-18", "RFC 9112 7.1", "00", chunked("00\r\n\r\n"), 400, true, 10, 204},
		{"chunk-19", "RFC 9112 7.1", "9 digits", chunked("100000000\r\n"), 400, true, 10, 0},
		{"chunk-20", "RFC 9112 7.1", "17 digits", chunked("f0000000000000003\r\nabc\r\n0\r\n\r\n"), 400, true, 10, 0},
		{"chunk-21", "RFC 9112 7.1.1", "extension", chunked("3;a=b\r\nabc\r\n0\r\n\r\n"), 400, true, 9, 204},
		{"chunk-22", "RFC 9112 7.1.1", "extension without a value", chunked("3;a\r\nabc\r\n0\r\n\r\n"), 400, true, 9, 204},
		{"chunk-23", "RFC 9112 7.1.1", "extension without a name", chunked("3;\r\nabc\r\n0\r\n\r\n"), 400, true, 9, 204},
		{"chunk-24", "RFC 9112 7.1.1", "extension with CR", chunked("3;a\rb\r\nabc\r\n0\r\n\r\n"), 400, true, 9, 0},
		{"chunk-25", "RFC 9112 7.1.1", "extension ended by a bare LF", chunked("3;a\nabc\r\n0\r\n\r\n"), 400, true, 9, 0},
		{"chunk-26", "RFC 9112 7.1.1", "extension of the last chunk", chunked("0;a=b\r\n\r\n"), 400, true, 9, 204},
		{"chunk-27", "RFC 9112 7.1.1", "extension after a space", chunked("3 ;a=b\r\nabc\r\n0\r\n\r\n"), 400, true, 9, 0},
	}
}

func trailerCases() []Case {
	return []Case{
		{"trailer-1", "RFC 9112 7.1.2", "undeclared", chunked("0\r\nX-A: a\r\n\r\n"), 400, true, 11, 204},
		{"trailer-2", "RFC 9112 7.1.2", "declared", chunked("0\r\nX-A: a\r\n\r\n", "Trailer: X-A"), 400, true, 11, 204},
		{"trailer-3", "RFC 9112 7.1.2", "declared and not sent", chunked("0\r\n\r\n", "Trailer: X-A"), 400, true, 11, 204},
		{"trailer-4", "RFC 9112 7.1.2", "Content-Length", chunked("0\r\nContent-Length: 5\r\n\r\n"), 400, true, 11, 204},
		{"trailer-5", "RFC 9112 7.1.2", "Transfer-Encoding", chunked("0\r\nTransfer-Encoding: chunked\r\n\r\n"), 400, true, 11, 204},
		{"trailer-6", "RFC 9112 7.1.2", "Authorization", chunked("0\r\nAuthorization: Bearer x\r\n\r\n"), 400, true, 11, 204},
		{"trailer-7", "RFC 9112 7.1.2", "Host", chunked("0\r\nHost: evil.example\r\n\r\n"), 400, true, 11, 204},
		{"trailer-8", "RFC 9112 7.1.2", "malformed", chunked("0\r\nno colon\r\n\r\n"), 400, true, 11, 0},
		{"trailer-9", "RFC 9112 7.1", "ended by a bare LF", chunked("0\r\n\n"), 400, true, 8, 0},
		{"trailer-10", "RFC 9112 7.1.2", "ended by CR CR LF", chunked("0\r\n\r\r\n"), 400, true, 11, 0},
		{"trailer-11", "RFC 9112 7.1", "ended by a bare LF, and a request behind", chunked("0\r\n\nGET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"), 400, true, 8, 204},
	}
}
