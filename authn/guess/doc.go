// Package guess answers "may this guess be looked at at all?" It brakes whoever
// guesses at passwords, codes and client secrets, and never locks the owner out.
package guess
