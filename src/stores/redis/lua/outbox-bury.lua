-- Keeps an event that was refused for good.
--
-- KEYS     the consumer's lease, the dead (hash), their order (sorted set)
-- ARGV     token, field, value, member
-- Result   1: kept, 0: the lease is another's

if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
redis.call('ZADD', KEYS[3], 0, ARGV[4])
return 1
