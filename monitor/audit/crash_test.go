package audit

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"
)

const childEnv = "RAMPART_TEST_AUDIT_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		writeForever(dir)
	}
	os.Exit(m.Run())
}

// writeForever records from eight goroutines and prints the subject of each
// event once it was acknowledged.
func writeForever(dir string) {
	l, err := Open(dir, plane, Options{MaxSegment: 50_000})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	round := time.Now().UnixNano()
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := 0; ; i++ {
				e := login(0)
				e.Subject = fmt.Sprintf("user:%d-%d-%d", round, w, i)
				if err := l.Record(context.Background(), e); err != nil {
					fmt.Println("error", strconv.Quote(err.Error()))
					return
				}
				fmt.Println("acked", e.Subject) // one unbuffered write
			}
		})
	}
	wg.Wait()
}

// TestKillNine kills a writing process twenty times: whatever it acknowledged
// must be there, and the next process must be able to go on.
func TestKillNine(t *testing.T) {
	dir := t.TempDir()
	var acked []string
	for range 20 {
		acked = append(acked, killOne(t, dir, 30+rand.IntN(60))...)
	}
	l := open(t, dir, Options{})
	must(t, l.Close())
	seq, hash := l.Head()
	if rep := verify(t, dir, map[string]Head{plane: {seq, hash}}); !rep.OK() {
		t.Fatal(rep.Problems)
	}
	there := make(map[string]bool)
	for _, e := range events(t, dir) {
		there[e.Subject] = true
	}
	for _, s := range acked {
		if !there[s] {
			t.Errorf("%s was acknowledged and is lost", s)
		}
	}
	if len(acked) < 100 {
		t.Errorf("only %d events were acknowledged: the test tests nothing", len(acked))
	}
}

// killOne lets a child write until some events are acknowledged, kills it a
// moment later, and returns all that it acknowledged.
func killOne(t *testing.T, dir string, after int) []string {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+dir)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	var acked []string
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		var what, subject string
		if n, _ := fmt.Sscan(lines.Text(), &what, &subject); n != 2 {
			continue // the kill came in the middle of a line
		}
		if what != "acked" {
			t.Errorf("child: %s", lines.Text())
			break
		}
		acked = append(acked, subject)
		if len(acked) == after {
			time.AfterFunc(time.Duration(rand.IntN(5_000))*time.Microsecond, func() { cmd.Process.Kill() })
		}
	}
	cmd.Process.Kill()
	cmd.Wait()
	return acked
}
