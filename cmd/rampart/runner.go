package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// child is one process that the runner keeps alive.
type child struct {
	name string
	args []string
	more []string // arguments besides, from the second start on
	env  []string // beside what the runner passes on
	dir  string
	// service marks the user's own command, which may have to find and build a
	// program. The zero value is a plane, which gets less.
	service bool
	// stdin makes the line that the process gets on standard input, anew for
	// each start: a join token is good once.
	stdin func(ctx context.Context) (string, error)
	log   string // file for its output
}

// runner starts children and restarts those that die.
type runner struct {
	say     func(format string, args ...any)
	changed func() // called when a process has started or ended; nil: nobody cares
	wg      sync.WaitGroup

	mu   sync.Mutex // guards pids
	pids map[string]int
}

// Backoff between restarts of one child. A child that lived for healthyAfter
// starts from the beginning.
const (
	firstBackoff = 100 * time.Millisecond
	maxBackoff   = 10 * time.Second
	healthyAfter = 20 * time.Second
	stopGrace    = 8 * time.Second
)

// keep runs c until ctx ends.
func (r *runner) keep(ctx context.Context, c child) {
	r.wg.Go(func() {
		backoff := firstBackoff
		for ctx.Err() == nil {
			started := time.Now()
			err := r.once(ctx, c)
			c.args, c.more = append(c.args[:len(c.args):len(c.args)], c.more...), nil
			if ctx.Err() != nil {
				return
			}
			if time.Since(started) > healthyAfter {
				backoff = firstBackoff
			}
			r.say("%s ended (%v)%s; starting it again in %v; its log: %s", c.name, err, lastWords(err, c.log), backoff, c.log)
			select {
			case <-time.After(backoff):
			case <-ctx.Done():
			}
			backoff = min(2*backoff, maxBackoff)
		}
	})
}

// once runs c to its end.
func (r *runner) once(ctx context.Context, c child) error {
	line := ""
	if c.stdin != nil {
		l, err := c.stdin(ctx)
		if err != nil {
			return fmt.Errorf("not started: %w", err)
		}
		line = l
	}
	out, err := os.OpenFile(c.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.Command(c.args[0], c.args[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = c.dir, out, out
	cmd.Env = append(passedOn(os.Environ(), c.service), c.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // the terminal's Ctrl-C reaches the runner alone, which stops children in order
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	r.setPID(c.name, cmd.Process.Pid)
	defer r.setPID(c.name, 0)
	defer syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what it left behind would keep its port
	io.WriteString(in, line+"\n")
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		return cmpErr(err, errors.New("exit code 0"))
	case <-ctx.Done():
	}
	in.Close() // the lifeline: a plane drains and stops
	select {
	case <-done:
	case <-time.After(stopGrace):
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-done
	}
	return nil
}

func cmpErr(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *runner) setPID(name string, pid int) {
	r.mu.Lock()
	if r.pids == nil {
		r.pids = map[string]int{}
	}
	r.pids[name] = pid
	if pid == 0 {
		delete(r.pids, name)
	}
	r.mu.Unlock()
	if r.changed != nil {
		r.changed()
	}
}

func (r *runner) snapshot() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make(map[string]int, len(r.pids))
	for k, v := range r.pids {
		out[k] = v
	}
	return out
}

// maxWords bounds how much of a log line the terminal shows.
const maxWords = 240

// lastWords quotes the last line of a log, to say why a process ended itself
// without making anyone open the file. One that was killed had nothing to say,
// and neither has the line that `go run` adds.
func lastWords(err error, file string) string {
	if e, ok := errors.AsType[*exec.ExitError](err); !ok || e.ExitCode() < 0 {
		return ""
	}
	lines := strings.Split(lastLines(file, 2), "\n")
	if last := len(lines) - 1; last > 0 && strings.HasPrefix(lines[last], "exit status ") {
		lines = lines[:last]
	}
	line := lines[len(lines)-1]
	if line == "" {
		return ""
	}
	return ": " + strings.ToValidUTF8(line[:min(len(line), maxWords)], "")
}

// lastLines returns the end of a log, for an explanation.
func lastLines(file string, n int) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	lines := bytes.Split(bytes.TrimSpace(b), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-n):], []byte("\n")))
}

// freshLog empties the log of an earlier run, keeping one generation.
func freshLog(dir, name string) string {
	file := filepath.Join(dir, name+".log")
	os.Rename(file, file+".1")
	return file
}
