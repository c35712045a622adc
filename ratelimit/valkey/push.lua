-- Adds what one gateway admitted of one key, and tells what all admitted.
-- KEYS: the key's hash: b, its newest bucket, and c0 to cM-1, its counters.
-- ARGV: length of a bucket in microseconds, how many buckets (M), what to add.
-- Returns the newest bucket, the time in microseconds, and the counters, the
-- oldest first.
local t = redis.call('TIME') -- the server's clock: those of gateways differ
local now = t[1] * 1000000 + t[2]
local length, m, add = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local held = {}
local flat = redis.call('HGETALL', KEYS[1])
for i = 1, #flat, 2 do held[flat[i]] = tonumber(flat[i + 1]) end
local k = math.floor(now / length)
local b = held.b or k
if k < b then k = b end -- a clock that steps back must not free capacity
local out, fields = { k, now }, { 'b', k }
for i = k - m + 1, k do
	local field = 'c' .. (i % m)
	local n = 0
	if i <= b and i > b - m then n = held[field] or 0 end
	if i == k then n = n + add end
	out[#out + 1] = n
	fields[#fields + 1] = field
	fields[#fields + 1] = n
end
if add > 0 then
	redis.call('HSET', KEYS[1], unpack(fields))
	redis.call('PEXPIRE', KEYS[1], math.ceil(((k + m) * length - now) / 1000) + 1000)
end
return out
