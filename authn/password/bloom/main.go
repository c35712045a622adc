// Bloom writes the filter of common passwords that package password embeds,
// from a JSON array of strings on standard input to standard output:
//
//	go run ./authn/password/bloom < passwords.json > authn/password/bloom/common.bloom
//
// README.md says where the array comes from.
package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"golang.org/x/text/unicode/norm"
)

// bitsPer and probes make one false alarm in ten thousand; probes is also the
// reader's, in policy.go.
const (
	bitsPer = 20
	probes  = 14
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bloom:", err)
		os.Exit(1)
	}
}

func run() error {
	var list []string
	if err := json.NewDecoder(bufio.NewReader(os.Stdin)).Decode(&list); err != nil {
		return err
	}
	filter := make([]byte, (len(list)*bitsPer+7)/8)
	for _, text := range list {
		add(filter, strings.ToLower(norm.NFKC.String(text)))
	}
	_, err := os.Stdout.Write(filter)
	return err
}

func add(filter []byte, text string) {
	sum := sha256.Sum256([]byte(text))
	at, step := binary.BigEndian.Uint64(sum[:8]), binary.BigEndian.Uint64(sum[8:16])|1
	for range probes {
		bit := at % uint64(len(filter)*8)
		filter[bit/8] |= 1 << (bit % 8)
		at += step
	}
}
