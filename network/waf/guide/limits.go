package guide

// Requests beyond these are the engine's: a guide is for the common ones.
const (
	maxBody      = 64 << 10
	maxTarget    = 8 << 10
	maxArguments = 500
	maxDepth     = 60 // of JSON
)

// maxSteps bounds how many transitions of automata one request may have built,
// so that a request made to miss every cache costs little more than the engine
// that it then goes to.
const maxSteps = 2000
