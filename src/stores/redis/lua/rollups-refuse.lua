-- Counts refused calls.
--
-- KEYS     a hash
-- ARGV     its lifetime, ms since 1970; the most rows that it may have; then for each row its name, the name of the one for those that are too many, and how many
-- Result   1

for i = 3, #ARGV, 3 do
  local name = ARGV[i]
  if redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[2]) and redis.call('HEXISTS', KEYS[1], name) == 0 then name = ARGV[i + 1] end
  redis.call('HINCRBY', KEYS[1], name, ARGV[i + 2])
end
redis.call('PEXPIREAT', KEYS[1], ARGV[1])
return 1
