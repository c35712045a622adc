package verify

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// chain checks the hash links of one plane's log, record after record, as the
// format is documented. The zero chain stands before the first record.
type chain struct {
	seq  uint64
	head [sha256.Size]byte
}

const maxRecord = 4 << 20

// add checks one line.
func (c *chain) add(line []byte) error {
	var r struct {
		Seq   uint64          `json:"seq"`
		Prev  string          `json:"prev"`
		Event json.RawMessage `json:"event"`
		Hash  string          `json:"hash"`
	}
	if err := json.Unmarshal(line, &r); err != nil {
		return fmt.Errorf("record %d does not parse: %w", c.seq+1, err)
	}
	if r.Seq != c.seq+1 {
		return fmt.Errorf("record %d follows %d", r.Seq, c.seq)
	}
	if r.Prev != hex.EncodeToString(c.head[:]) {
		return fmt.Errorf("record %d does not link to the one before", r.Seq)
	}
	h := sha256.New()
	h.Write([]byte("rampart-audit-v1\n"))
	h.Write(binary.BigEndian.AppendUint64(nil, r.Seq))
	h.Write(c.head[:])
	h.Write(r.Event)
	sum := [sha256.Size]byte(h.Sum(nil))
	if r.Hash != hex.EncodeToString(sum[:]) {
		return fmt.Errorf("record %d is not what was hashed", r.Seq)
	}
	c.seq, c.head = r.Seq, sum
	return nil
}

// read checks every whole line of a log; a last line without an end is being
// written and does not count.
func (c *chain) read(r io.Reader) error {
	in := bufio.NewReaderSize(r, 64<<10)
	for {
		line, err := in.ReadBytes('\n')
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if len(line) > maxRecord {
			return fmt.Errorf("record %d has more than %d bytes", c.seq+1, maxRecord)
		}
		if err := c.add(bytes.TrimSuffix(line, []byte("\n"))); err != nil {
			return err
		}
	}
}

// checkLogs checks the logs of all planes under dir and counts their records.
func checkLogs(dir string) (planes int, records uint64, err error) {
	files, err := logFiles(dir)
	if err != nil {
		return 0, 0, err
	}
	chains := map[string]*chain{}
	for _, name := range files {
		plane := filepath.Base(filepath.Dir(name))
		if chains[plane] == nil {
			chains[plane] = &chain{}
		}
		if err := checkFile(chains[plane], name); err != nil {
			return 0, 0, fmt.Errorf("%s/%s: %w", plane, filepath.Base(name), err)
		}
	}
	for _, c := range chains {
		records += c.seq
	}
	return len(chains), records, nil
}

func checkFile(c *chain, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return c.read(f)
}
