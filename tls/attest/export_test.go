package attest

// ParseStart is for the fuzzer.
var ParseStart = parseStart
