-- ARGV: prefix, name, lease, the answer, what is kept instead of it where its owner has
-- no room for it any more, and the bounds: bytes, a few bytes. Returns whether the lease
-- was held.
local name, answer = ARGV[2], ARGV[4]
local row = P .. 'e:' .. name
local v = redis.call('HMGET', row, 'lease', 'member', 'begun', 'keep')
if v[1] ~= ARGV[3] then return 0 end
leave(v[2])
local _, owner = split(v[2])
if held('b' .. owner) >= share(tonumber(ARGV[6]), held('b'), tonumber(ARGV[7])) then answer = ARGV[5] end
local member, ends = name .. '.' .. owner .. '.' .. #answer, v[3] + v[4]
redis.call('HSET', row, 'answer', answer, 'ends', ends, 'member', member)
redis.call('HDEL', row, 'lease')
expire(row, v[4])
enter(member, ends)
return 1
