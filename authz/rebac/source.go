package rebac

import "strings"

// sourceLines says where things are defined. The parser does not keep it.
type sourceLines struct {
	types      map[string]int // by name
	relations  map[string]int // by "type#relation"
	conditions map[string]int
}

// scan finds the lines of definitions in a text that parses. Conditions come
// last in the language, and their text is not looked into.
func scan(text string) sourceLines {
	s := sourceLines{types: map[string]int{}, relations: map[string]int{}, conditions: map[string]int{}}
	typ := ""
	for i, line := range strings.Split(text, "\n") {
		word, rest, _ := strings.Cut(strings.TrimSpace(strings.ReplaceAll(line, "\t", " ")), " ")
		rest = strings.TrimSpace(rest)
		switch word {
		case "condition":
			name, _, _ := strings.Cut(rest, "(")
			s.conditions[strings.TrimSpace(name)] = i + 1
			typ = ""
		case "type":
			if len(s.conditions) == 0 {
				typ, _, _ = strings.Cut(rest, " ")
				s.types[typ] = i + 1
			}
		case "define":
			name, _, ok := strings.Cut(rest, ":")
			if ok && typ != "" {
				s.relations[typ+"#"+strings.TrimSpace(name)] = i + 1
			}
		}
	}
	return s
}
