package rebac

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// sourceLines says where things are defined. The parser does not keep it.
type sourceLines struct {
	types      map[string]int // by name
	relations  map[string]int // by "type#relation"
	conditions map[string]int
}

// compact leaves out empty lines and comments, over which the parser takes time
// in the square of their number. lines are the numbers of those that are left.
func compact(text string) (short string, lines []int) {
	var out []string
	for i, line := range strings.Split(text, "\n") {
		if t := strings.TrimSpace(line); t != "" && t[0] != '#' {
			out, lines = append(out, line), append(lines, i+1)
		}
	}
	return strings.Join(out, "\n") + "\n", lines
}

var syntaxLine = regexp.MustCompile(`line=(\d+), column=\d+: `)

// syntaxError rewrites the first of the parser's errors. It counts lines from 0,
// and those of the compact text.
func syntaxError(name string, err error, lines []int) error {
	text := strings.Join(strings.Fields(err.Error()), " ")
	at := syntaxLine.FindStringSubmatchIndex(text)
	if at == nil {
		return fmt.Errorf("%s: %s", name, clipText(text, 200))
	}
	n, _ := strconv.Atoi(text[at[2]:at[3]])
	text, _, _ = strings.Cut(text[at[1]:], " * ")
	if len(lines) == 0 {
		lines = []int{1}
	}
	return fmt.Errorf("%s:%d: %s", name, lines[min(n, len(lines)-1)], clipText(text, 200))
}

// scan finds the lines of definitions in a compact text that parses. Conditions
// come last in the language, and their text is not looked into.
func scan(text string, lines []int) sourceLines {
	s := sourceLines{types: map[string]int{}, relations: map[string]int{}, conditions: map[string]int{}}
	typ := ""
	for i, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		word, rest, _ := strings.Cut(strings.TrimSpace(strings.ReplaceAll(line, "\t", " ")), " ")
		rest = strings.TrimSpace(rest)
		switch word {
		case "condition":
			name, _, _ := strings.Cut(rest, "(")
			s.conditions[strings.TrimSpace(name)] = lines[i]
			typ = ""
		case "type":
			if len(s.conditions) == 0 {
				typ, _, _ = strings.Cut(rest, " ")
				s.types[typ] = lines[i]
			}
		case "define":
			name, _, ok := strings.Cut(rest, ":")
			if ok && typ != "" {
				s.relations[typ+"#"+strings.TrimSpace(name)] = lines[i]
			}
		}
	}
	return s
}
