//go:build system

package system

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// canary is a secret of the running system, and the processes that the file
// makes its holders: names of children, "control" among them.
type canary struct {
	name    string
	value   []byte
	holders []string
	kept    string // the holder that has it in memory for sure: a search that misses it there proves nothing
}

// leaks searches memory, environment and arguments of every process of the
// system, and every log and file of its state folder, for secrets.
func (r *running) leaks(list ...canary) {
	r.t.Helper()
	r.found = map[string]bool{}
	if os.Geteuid() != 0 {
		r.t.Log("memory was not searched: that takes root")
		return
	}
	pids := maps.Clone(r.PIDs)
	pids["rampart up"] = r.cmd.Process.Pid
	searched, size := 0, 0
	for _, name := range slices.Sorted(maps.Keys(pids)) {
		for _, pid := range family(pids[name]) {
			searched++
			size += r.memory(name, pid, list)
			for _, file := range []string{"environ", "cmdline"} {
				b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
				r.clean(fmt.Sprintf("%s of %s", file, name), b, list, nil)
			}
		}
	}
	files := r.files(list)
	r.t.Logf("searched %d MiB of memory in %d processes, their environments and arguments, and %d files for %d secrets", size>>20, searched, files, len(list))
	for _, c := range list {
		if !r.found[c.name+" in "+c.kept] {
			r.t.Errorf("%s is not found in the memory of %s, which uses it: the search proves nothing", c.name, c.kept)
		}
	}
}

// family is a process and all that it started.
func family(pid int) []int {
	out := []int{pid}
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	for _, f := range strings.Fields(string(b)) {
		if child, err := strconv.Atoi(f); err == nil {
			out = append(out, family(child)...)
		}
	}
	return out
}

// memory reads what a core file of the process would hold, and returns how much
// that was.
func (r *running) memory(name string, pid int, list []canary) int {
	maps, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return 0 // it has ended
	}
	defer maps.Close()
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		r.t.Errorf("the memory of %s cannot be searched: %v", name, err)
		return 0
	}
	defer mem.Close()
	size := 0
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		var from, to int64
		var rights string
		fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &rights)
		if !strings.HasPrefix(rights, "rw") { // code and constants were there before any secret
			continue
		}
		part := make([]byte, min(to-from, 256<<20))
		n, _ := mem.ReadAt(part, from)
		size += n
		r.clean("memory of "+name, part[:n], list, []string{name})
	}
	return size
}

// clean demands that a place holds no secret but those whose holders are here.
func (r *running) clean(place string, content []byte, list []canary, here []string) {
	for _, c := range list {
		for form, text := range forms(c.value) {
			at := bytes.Index(content, text)
			if at < 0 {
				continue
			}
			if len(here) > 0 && slices.Contains(c.holders, here[0]) {
				r.found[c.name+" in "+here[0]] = true
				continue
			}
			around := bytes.ToValidUTF8(content[max(0, at-40):at], []byte("."))
			r.t.Errorf("%s, %s, is in the %s, after %q", c.name, form, place, around)
		}
	}
}

// forms are the ways in which a value may be written.
func forms(value []byte) map[string][]byte {
	return map[string][]byte{
		"as it is":  value,
		"in base64": []byte(strings.TrimRight(base64.StdEncoding.EncodeToString(value), "=")),
		"in hex":    []byte(hex.EncodeToString(value)),
	}
}

// files searches the state folder, but for the file that a secret lives in.
func (r *running) files(list []canary) int {
	n := 0
	err := filepath.WalkDir(r.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || d.Name() == "kek" {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return nil // it went away
		}
		n++
		rel, _ := filepath.Rel(r.dir, path)
		r.clean("file "+rel, b, list, nil)
		return nil
	})
	if err != nil {
		r.t.Error(err)
	}
	return n
}

// keyOf reads the key encryption key of a state folder.
func (r *running) keyOf() []byte {
	r.t.Helper()
	text, err := os.ReadFile(filepath.Join(r.dir, "kek"))
	if err != nil {
		r.t.Fatal(err)
	}
	for _, word := range strings.Fields(string(text)) {
		if key, err := base64.StdEncoding.DecodeString(word); err == nil && len(key) == 32 {
			return key
		}
	}
	r.t.Fatal("the key file holds no key")
	return nil
}
