// A plain HTTP server that says what it has read: method, target, header lines in
// order and body, bytes in base64. The first line of its output is its port.
'use strict';
const http = require('http');
const bytes = (s) => Buffer.from(s, 'latin1').toString('base64');
const server = http.createServer((req, res) => {
	const body = [];
	req.on('data', (b) => body.push(b));
	req.on('error', () => res.destroy());
	req.on('end', () => {
		res.setHeader('Content-Type', 'application/json');
		res.end(JSON.stringify({ method: req.method, target: bytes(req.url), lines: req.rawHeaders.map(bytes), body: Buffer.concat(body).toString('base64') }) + '\n');
	});
});
server.keepAliveTimeout = 0;
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
process.stdin.on('end', () => process.exit(0)); // whoever started it has gone
process.stdin.resume();
