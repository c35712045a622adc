// Package vault has the official clients of Vault and OpenBao and ours do the
// same things to the same server and demands that they see the same. The server
// is the fake of secrets/vault/vaulttest, or one that its owner names (make
// test-vault). It is a module of its own, so that none of the official clients
// is ever linked into Rampart.
package vault
