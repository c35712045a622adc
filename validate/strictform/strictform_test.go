package strictform

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart"
)

func TestDecode(t *testing.T) {
	for name, tc := range map[string]struct {
		body string
		want []Field // nil: refused
	}{
		"nothing":               {"", []Field{}},
		"pairs in order":        {"b=1&a=2&b=3", []Field{{"b", "1"}, {"a", "2"}, {"b", "3"}}},
		"spaces and escapes":    {"a+b=c%20d%2Be", []Field{{"a b", "c d+e"}}},
		"beyond ASCII":          {"a=%C3%A4", []Field{{"a", "ä"}}},
		"an equals sign more":   {"a=b=c", []Field{{"a", "b=c"}}},
		"what clients leave":    {"a=x@y.example,(z)", []Field{{"a", "x@y.example,(z)"}}},
		"an empty value":        {"a=", []Field{{"a", ""}}},
		"no equals sign":        {"a", nil},
		"an empty pair":         {"a=1&&b=2", nil},
		"a trailing ampersand":  {"a=1&", nil},
		"no name":               {"=1", nil},
		"a semicolon":           {"a=1;b=2", nil},
		"a raw space":           {"a=1 2", nil},
		"a raw byte":            {"a=\xc3\xa4", nil},
		"half an escape":        {"a=%4", nil},
		"no hexadecimal":        {"a=%zz", nil},
		"UTF-16 of old":         {"a=%u0041", nil},
		"not UTF-8":             {"a=%C3", nil},
		"an overlong zero":      {"a=%C0%80", nil},
		"a zero":                {"a=%00", nil},
		"a line break":          {"a=1\r\nb=2", nil},
		"a name without end":    {strings.Repeat("a", MaxName+1) + "=1", nil},
		"fields without number": {strings.Repeat("a=1&", MaxFields) + "a=1", nil},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Decode([]byte(tc.body))
			if tc.want == nil {
				refused(t, err)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, append([]Field{}, got...)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func refused(t *testing.T, err error) {
	t.Helper()
	e, ok := errors.AsType[*Error](err)
	if !ok || rampart.KindOf(err) != rampart.Invalid {
		t.Fatalf("got %v, want a refusal", err)
	}
	if strings.Contains(e.Error(), "secret") {
		t.Errorf("a value is repeated: %v", e)
	}
}

// form writes a body with the boundary b; lines end with CRLF.
func form(lines ...string) string { return strings.Join(lines, "\r\n") }

func TestDecodeMultipart(t *testing.T) {
	const kind = "multipart/form-data; boundary=b"
	const a = `Content-Disposition: form-data; name="a"`
	file := func(name string) string { return a + `; filename="` + name + `"` }
	one := func(head string) string { return form("--b", head, "", "secret", "--b--", "") }
	for name, tc := range map[string]struct {
		kind, body string
		want       []Part // nil: refused
	}{
		"a field":                  {kind, one(a), []Part{{Name: "a", Data: []byte("secret")}}},
		"a file":                   {kind, one(file("x 1.png") + "\r\nContent-Type: image/PNG"), []Part{{Name: "a", IsFile: true, Filename: "x 1.png", Type: "image/png", Data: []byte("secret")}}},
		"no file chosen":           {kind, form("--b", file(""), "Content-Type: application/octet-stream", "", "", "--b--", ""), []Part{}},
		"two parts":                {kind, form("--b", a, "", "1\r\n2", "--b", a, "", "", "--b--"), []Part{{Name: "a", Data: []byte("1\r\n2")}, {Name: "a", Data: []byte{}}}},
		"no parts":                 {kind, "--b--\r\n", []Part{}},
		"a boundary in quotes":     {`multipart/form-data; boundary="b"`, one(a), []Part{{Name: "a", Data: []byte("secret")}}},
		"text in UTF-8":            {kind, one(a + "\r\nContent-Type: text/plain; charset=UTF-8"), []Part{{Name: "a", Type: "text/plain", Data: []byte("secret")}}},
		"text in another encoding": {kind, one(a + "\r\nContent-Type: text/plain; charset=utf-7"), nil},
		"two boundaries":           {"multipart/form-data; boundary=b; boundary=c", one(a), nil},
		"a boundary in pieces":     {"multipart/form-data; boundary*0=b", one(a), nil},
		"a second parameter":       {kind + "; charset=utf-8", one(a), nil},
		"an odd boundary":          {`multipart/form-data; boundary="b "`, one(a), nil},
		"no boundary":              {"multipart/form-data", one(a), nil},
		"another type":             {"multipart/mixed; boundary=b", one(a), nil},
		"a preamble":               {kind, "x\r\n" + one(a), nil},
		"an epilogue":              {kind, one(a) + "x", nil},
		"padding":                  {kind, strings.Replace(one(a), "--b\r\n", "--b \r\n", 1), nil},
		"no end":                   {kind, strings.TrimSuffix(one(a), "--b--\r\n"), nil},
		"a longer boundary":        {kind, form("--b", a, "", "1", "--bc", a, "", "2", "--b--", ""), nil},
		"bare line feeds":          {kind, strings.ReplaceAll(one(a), "\r\n", "\n"), nil},
		"a folded header":          {kind, one(a + ";\r\n filename=x"), nil},
		"an unknown header":        {kind, one(a + "\r\nContent-Transfer-Encoding: base64"), nil},
		"a header twice":           {kind, one(a + "\r\n" + a), nil},
		"no name":                  {kind, one("Content-Type: text/plain"), nil},
		"a name without quotes":    {kind, one("Content-Disposition: form-data; name=a"), nil},
		"a name with escapes":      {kind, one(`Content-Disposition: form-data; name="a\"b"`), nil},
		"an extended file name":    {kind, one(a + `; filename*=UTF-8''x`), nil},
		"two file names":           {kind, one(file("x") + `; filename="y"`), nil},
		"a path":                   {kind, one(file("../x")), nil},
		"a windows path":           {kind, one(file(`C:\x`)), nil},
		"a hidden file":            {kind, one(file(".htaccess")), nil},
		"an escape in a file name": {kind, one(file("x%00.png")), nil},
		"markup in a file name":    {kind, one(file("<img>.png")), nil},
		"an attachment":            {kind, one(`Content-Disposition: attachment; name="a"`), nil},
		"headers without end":      {kind, one(a + "\r\nContent-Type: " + strings.Repeat("x", maxPartHeader)), nil},
		"parts without number":     {kind, strings.Repeat(form("--b", a, "", "1", ""), MaxParts+1) + "--b--", nil},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := DecodeMultipart(tc.kind, []byte(tc.body))
			if tc.want == nil {
				refused(t, err)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestBoundaryIsNoPart: who knows how boundaries are made cannot write one into
// a part.
func TestBoundaryIsNoPart(t *testing.T) {
	p := []Part{{Name: "a", Data: []byte("x")}}
	kind, _ := EncodeMultipart(p)
	_, guessed, _ := strings.Cut(kind, "boundary=")
	p = append(p, Part{Name: "b", Data: []byte("\r\n--" + guessed + "--\r\n")})
	kind, body := EncodeMultipart(p)
	got, err := DecodeMultipart(kind, body)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(p, got); diff != "" {
		t.Error(diff)
	}
}

// FuzzDecode: what is accepted means the same to net/url, before and after it is
// written again.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{"a=1&b=2", "a+b=%C3%A4", "a=b=c", "a;b", "%=1", "a=%00"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		fields, err := Decode(data)
		if err != nil {
			return
		}
		want := url.Values{}
		for _, f := range fields {
			want.Add(f.Name, f.Value)
		}
		for _, text := range [][]byte{data, Encode(fields)} {
			got, err := url.ParseQuery(string(text))
			if err != nil {
				t.Fatalf("%q: %v", text, err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("%q: %s", text, diff)
			}
		}
	})
}

// FuzzDecodeMultipart: what is accepted, and written again, means the same to
// mime/multipart and to us.
func FuzzDecodeMultipart(f *testing.F) {
	f.Add("multipart/form-data; boundary=b", []byte(form("--b", `Content-Disposition: form-data; name="a"; filename="x.png"`, "Content-Type: image/png", "", "1", "--b--", "")))
	f.Add("multipart/form-data; boundary=b", []byte(form("--b", `Content-Disposition: form-data; name="a"`, "", "", "--b", `Content-Disposition: form-data; name="b"`, "", "2", "--b--")))
	f.Add(`multipart/form-data; boundary="b"`, []byte("--b--"))
	f.Fuzz(func(t *testing.T, kind string, data []byte) {
		parts, err := DecodeMultipart(kind, data)
		if err != nil {
			return
		}
		again, body := EncodeMultipart(parts)
		ours, err := DecodeMultipart(again, body)
		if err != nil {
			t.Fatalf("our own form is refused: %v\n%q", err, body)
		}
		if diff := cmp.Diff(parts, ours); diff != "" {
			t.Fatal(diff)
		}
		if diff := cmp.Diff(parts, theirs(t, again, body)); diff != "" && len(parts) > 0 {
			t.Fatal(diff)
		}
	})
}

// theirs reads a form with the standard library.
func theirs(t *testing.T, kind string, body []byte) []Part {
	t.Helper()
	_, params, err := mime.ParseMediaType(kind)
	if err != nil {
		t.Fatal(err)
	}
	var out []Part
	for r := multipart.NewReader(bytes.NewReader(body), params["boundary"]); ; {
		p, err := r.NextRawPart()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatalf("%v\n%q", err, body)
		}
		data, err := io.ReadAll(p)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, Part{Name: p.FormName(), IsFile: p.FileName() != "", Filename: p.FileName(), Type: p.Header.Get("Content-Type"), Data: data})
	}
}

func BenchmarkDecodeMultipart(b *testing.B) {
	kind, body := EncodeMultipart([]Part{{Name: "a", Data: []byte("text")}, {Name: "file", IsFile: true, Filename: "x.png", Type: "image/png", Data: bytes.Repeat([]byte("x"), 64<<10)}})
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DecodeMultipart(kind, body); err != nil {
			b.Fatal(err)
		}
	}
}

// The log tells a rule once.
func TestErrorText(t *testing.T) {
	_, err := Decode([]byte("a=b c"))
	if want := "form cannot be read in one way: form: a byte that must be percent-encoded"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
