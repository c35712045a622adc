-- Keys, after the prefix:
--   s:KEY    hash: data, seen, sid, and in sets the indexes that name the session
--   i:SID    KEY
--   u:HASH   set of SID: sessions of a subject
--   o:HASH   set of SID: sessions of a login at a provider
--   seen     sorted set of KEY by when the session was last seen
-- An index may name a session that has expired; whoever meets it takes it out.
local P = ARGV[1]

-- score is a time of 20 digits in microseconds: a double holds no more.
local function score(t) return string.sub(t, 1, 17) end

-- keep puts off the expiry of an index: it lives as long as its last session.
local function keep(index, at)
	if redis.call('PEXPIREAT', index, at, 'GT') == 0 and redis.call('PTTL', index) == -1 then
		redis.call('PEXPIREAT', index, at)
	end
end

-- put inserts the session whose key is ARGV[n], followed by handle, data, seen,
-- when to forget, and the names of its indexes. 0: key or handle exist.
local function put(n)
	local key, sid, data, seen, at = ARGV[n], ARGV[n + 1], ARGV[n + 2], ARGV[n + 3], ARGV[n + 4]
	local row, handle = P .. 's:' .. key, P .. 'i:' .. sid
	if redis.call('EXISTS', row) == 1 or redis.call('EXISTS', handle) == 1 then return 0 end
	local sets = {}
	for i = n + 5, #ARGV do
		sets[#sets + 1] = ARGV[i]
		redis.call('SADD', P .. ARGV[i], sid)
		keep(P .. ARGV[i], at)
	end
	redis.call('HSET', row, 'data', data, 'seen', seen, 'sid', sid, 'sets', table.concat(sets, ' '))
	redis.call('PEXPIREAT', row, at)
	redis.call('SET', handle, key, 'PXAT', at)
	redis.call('ZADD', P .. 'seen', score(seen), key)
	keep(P .. 'seen', at)
	return 1
end

-- read returns key, data and seen, or false.
local function read(key)
	local v = redis.call('HMGET', P .. 's:' .. key, 'data', 'seen')
	return v[1] and {key, v[1], v[2]}
end

-- drop deletes a session from everywhere. 0: it was not there.
local function drop(key)
	local v = redis.call('HMGET', P .. 's:' .. key, 'sid', 'sets')
	redis.call('ZREM', P .. 'seen', key)
	if not v[1] then return 0 end
	redis.call('DEL', P .. 's:' .. key, P .. 'i:' .. v[1])
	for set in string.gmatch(v[2], '%S+') do redis.call('SREM', P .. set, v[1]) end
	return 1
end

