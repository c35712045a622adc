package filter

// Quote is quote, for tests against a database.
var Quote = quote
