-- ARGV: prefix, name, lease. Returns whether the lease was held.
local v = redis.call('HMGET', P .. 'e:' .. ARGV[2], 'lease', 'member')
if v[1] ~= ARGV[3] then return 0 end
forget(v[2])
return 1
