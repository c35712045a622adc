package valkey

import (
	_ "embed"

	"github.com/redis/go-redis/v9"
)

// scripts are what the server runs alone, one at a time.
type scripts struct {
	putSession, session, sessions, touch, rekey, end, endAll, sweep *redis.Script
	putTicket, ticket, takeTicket                                   *redis.Script
	swapTries                                                       *redis.Script
}

//go:embed session.lua
var sessionLua string

func newScripts() scripts {
	of := func(body string) *redis.Script { return redis.NewScript(sessionLua + body) }
	return scripts{
		// ARGV: prefix, key, and the fields of put.
		putSession: of(`return put(2)`),
		// ARGV: prefix, key.
		session: of(`return read(ARGV[2])`),
		// ARGV: prefix, name of an index.
		sessions: of(`
			local out = {}
			for _, sid in ipairs(redis.call('SMEMBERS', P .. ARGV[2])) do
				local v = read(redis.call('GET', P .. 'i:' .. sid) or '')
				if v then out[#out + 1] = v else redis.call('SREM', P .. ARGV[2], sid) end
			end
			return out`),
		// ARGV: prefix, key, time.
		touch: of(`
			local seen = redis.call('HGET', P .. 's:' .. ARGV[2], 'seen')
			if seen and seen < ARGV[3] then
				redis.call('HSET', P .. 's:' .. ARGV[2], 'seen', ARGV[3])
				redis.call('ZADD', P .. 'seen', score(ARGV[3]), ARGV[2])
			end
			return 0`),
		// ARGV: prefix, old key, new key, and the fields of put.
		rekey: of(`
			if redis.call('GET', P .. 'i:' .. ARGV[4]) ~= ARGV[2] or redis.call('EXISTS', P .. 's:' .. ARGV[2]) == 0 then return 0 end
			if redis.call('EXISTS', P .. 's:' .. ARGV[3]) == 1 then return -1 end
			drop(ARGV[2])
			return put(3)`),
		// ARGV: prefix, handle.
		end: of(`return drop(redis.call('GET', P .. 'i:' .. ARGV[2]) or '')`),
		// ARGV: prefix, name of an index.
		endAll: of(`
			local ended = {}
			for _, sid in ipairs(redis.call('SMEMBERS', P .. ARGV[2])) do
				if drop(redis.call('GET', P .. 'i:' .. sid) or '') == 1 then ended[#ended + 1] = sid end
			end
			redis.call('DEL', P .. ARGV[2])
			return ended`),
		// ARGV: prefix, bound of seen, how many at most.
		sweep: of(`
			local n = 0
			for _, key in ipairs(redis.call('ZRANGEBYSCORE', P .. 'seen', '-inf', score(ARGV[2]), 'LIMIT', 0, ARGV[3])) do
				local seen = redis.call('HGET', P .. 's:' .. key, 'seen')
				if not seen then n = n + redis.call('ZREM', P .. 'seen', key)
				elseif seen < ARGV[2] then n = n + drop(key) end
			end
			return n`),

		// KEYS: the ticket. ARGV: now, expires, value, when to forget.
		putTicket: redis.NewScript(`
			local old = redis.call('GETRANGE', KEYS[1], 0, 19)
			if old > ARGV[1] then return 0 end
			redis.call('SET', KEYS[1], ARGV[2] .. ARGV[3], 'PXAT', ARGV[4])
			return 1`),
		// KEYS: the ticket. ARGV: now.
		ticket: redis.NewScript(`
			local v = redis.call('GET', KEYS[1])
			if v and string.sub(v, 1, 20) > ARGV[1] then return string.sub(v, 21) end
			return false`),
		takeTicket: redis.NewScript(`
			local v = redis.call('GET', KEYS[1])
			if v and string.sub(v, 1, 20) > ARGV[1] then
				redis.call('DEL', KEYS[1])
				return string.sub(v, 21)
			end
			return false`),

		// KEYS: the counters. ARGV, for each: from, to ('' is none), when to forget.
		swapTries: redis.NewScript(`
			for i, key in ipairs(KEYS) do
				if (redis.call('GET', key) or '') ~= ARGV[i * 3 - 2] then return 0 end
			end
			for i, key in ipairs(KEYS) do
				if ARGV[i * 3 - 1] == '' then redis.call('DEL', key)
				else redis.call('SET', key, ARGV[i * 3 - 1], 'PXAT', ARGV[i * 3]) end
			end
			return 1`),
	}
}
