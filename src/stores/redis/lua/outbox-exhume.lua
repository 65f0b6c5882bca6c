-- Forgets dead events.
--
-- KEYS     the dead (hash), their order (sorted set)
-- ARGV     fields and members in turn
-- Result   how many were there

local found = 0
for i = 1, #ARGV, 2 do
  found = found + redis.call('HDEL', KEYS[1], ARGV[i])
  redis.call('ZREM', KEYS[2], ARGV[i + 1])
end
return found
