-- Moves a consumer's cursor in one partition to where another's stands; where that one has none, before the oldest kept event.
--
-- KEYS     cursor, the other cursor, stream, id of the last event
-- ARGV     token
-- Result   1: moved, 0: a newer token is obeyed

if tonumber(redis.call('HGET', KEYS[1], 'token') or '0') > tonumber(ARGV[1]) then return 0 end
local id = redis.call('HGET', KEYS[2], 'id') or beforeOldest(KEYS[3]) or redis.call('GET', KEYS[4]) or '0-0'
redis.call('HSET', KEYS[1], 'token', ARGV[1], 'id', id)
return 1
