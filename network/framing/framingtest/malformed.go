package framingtest

import "slices"

// Malformed returns the HTTP/1 requests that break a clause each. The head of
// some of them names a second request, which nobody may serve.
func Malformed() []Case {
	return slices.Concat(
		bothCases(),
		oldCases(),
		twiceCases(),
		zerosCases(),
		lengthCases(),
		codingCases(),
		spellingCases(),
		foldCases(),
		lfCases(),
		chunkCases(),
		trailerCases(),
		versionCases(),
		lineCases(),
		fieldCases(),
		hostCases(),
		targetCases(),
		pathCases(),
		queryCases(),
		methodCases(),
		bodyCases(),
		singleCases(),
		upgradeCases(),
		expectCases(),
		largeCases(),
	)
}
