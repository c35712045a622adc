-- ARGV: prefix, the time ('': the server's), name, mark, owner, lease, its length, how long
-- the answer is kept, and the bounds: keys, bytes, a few keys, a few bytes.
-- Returns the state, and the answer if it is done.
local now, name, mark, owner, lease = clock(ARGV[2]), ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local within, keep = tonumber(ARGV[7]), tonumber(ARGV[8])

-- More than one begins, so that what has ended never piles up.
for _, member in ipairs(redis.call('ZRANGEBYSCORE', P .. 'ends', '-inf', now, 'LIMIT', 0, 100)) do forget(member) end

local row = P .. 'e:' .. name
local v = redis.call('HMGET', row, 'mark', 'lease', 'ends', 'member')
if v[1] and now < tonumber(v[3]) then
	if v[1] ~= mark then return { 'mismatch' } end
	if v[2] == lease then return { 'new' } end -- asked again: our first answer was lost
	if v[2] then return { 'in flight' } end
	return { 'done', redis.call('HGET', row, 'answer') }
end
if v[1] then forget(v[4]) end

local keys, bytes, ours, ourBytes = held('n'), held('b'), held('n' .. owner), held('b' .. owner)
local most, mostBytes = tonumber(ARGV[9]), tonumber(ARGV[10])
if keys >= most or bytes >= mostBytes then return { 'full' } end
if ours >= share(most, keys, tonumber(ARGV[11])) or ourBytes >= share(mostBytes, bytes, tonumber(ARGV[12])) then return { 'too many' } end

local member = name .. '.' .. owner .. '.0'
redis.call('HSET', row, 'mark', mark, 'lease', lease, 'begun', now, 'keep', keep, 'ends', now + within, 'member', member)
expire(row, within)
enter(member, now + within + GRACE)
return { 'new' }
