-- Keys, after the prefix:
--   e:NAME   hash: mark, lease while in flight, begun, keep, ends, member; answer when done
--   ends     sorted set of members, by when they stop to count
--   counts   hash: n, keys in all; b, bytes of answers; nOWNER and bOWNER, of one owner
-- A member is NAME.OWNER.BYTES: what is taken off the counts when it leaves. An entry may
-- expire before its member leaves, never the other way round. Times are in microseconds.
local P = ARGV[1]
local GRACE = 60000000 -- a minute: who finishes after its lease may still be heard

local function clock(given)
	if given ~= '' then return tonumber(given) end
	local t = redis.call('TIME')
	return t[1] * 1000000 + t[2]
end

local function split(member) return string.match(member, '^([^.]+)%.(%x+)%.(%d+)$') end

local function bump(field, n)
	if n == 0 then return end -- it may be -0, which is no number there
	if redis.call('HINCRBY', P .. 'counts', field, n) <= 0 then redis.call('HDEL', P .. 'counts', field) end
end

local function count(member, sign)
	local _, owner, bytes = split(member)
	bump('n', sign)
	bump('n' .. owner, sign)
	bump('b', sign * bytes)
	bump('b' .. owner, sign * bytes)
end

local function held(field) return tonumber(redis.call('HGET', P .. 'counts', field) or 0) end

-- share is what one owner may hold of most while used of it is taken by all, as package
-- fairshare says: what is free less the last quarter, halved; of that quarter a few.
local function share(most, used, few)
	local free, kept = most - used, math.floor(most / 4)
	if free <= 0 then return 0 end
	if free > kept then return math.max(math.floor((free - kept) / 2), few, 1) end
	return math.max(math.floor(few * free / kept), 1)
end

local function enter(member, ends)
	if redis.call('ZADD', P .. 'ends', ends, member) == 1 then count(member, 1) end
end

-- leave is each script's first write, where there is something to take off: a server that
-- is full refuses a script at its first write that needs memory, and none after another.
local function leave(member)
	if redis.call('ZREM', P .. 'ends', member) == 1 then count(member, -1) end
end

-- forget takes a member off, with its entry unless that has a newer one.
local function forget(member)
	leave(member)
	local row = P .. 'e:' .. split(member)
	if redis.call('HGET', row, 'member') == member then redis.call('DEL', row) end
end

local function expire(row, after) redis.call('PEXPIRE', row, math.ceil((after + GRACE) / 1000)) end
