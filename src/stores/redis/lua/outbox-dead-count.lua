-- How many of a consumer's are dead.
--
-- KEYS     the dead (hash), their order (sorted set)
-- ARGV     the first and the last member that may be the consumer's
-- Result   { how many, 1: all of the dead are in their order }

local whole = redis.call('HLEN', KEYS[1]) == redis.call('ZCARD', KEYS[2])
return { redis.call('ZLEXCOUNT', KEYS[2], ARGV[1], ARGV[2]), whole and 1 or 0 }
