-- Who does a thing that only one may do: the lease is renewed by its holder, or taken when it is free or has run out. A new holder gets a higher token.
--
-- KEYS[1]  the lease (hash: holder, token, until)
-- ARGV     holder, now in ms, until in ms
-- Result   the token, or nothing while another holds it

local held = redis.call('HMGET', KEYS[1], 'holder', 'token', 'until')
local till = tonumber(held[3] or '0')
if held[1] == ARGV[1] then
  if tonumber(ARGV[3]) > till then redis.call('HSET', KEYS[1], 'until', ARGV[3]) end
  return tonumber(held[2])
end
if held[1] and held[1] ~= '' and till > tonumber(ARGV[2]) then return false end
local token = redis.call('HINCRBY', KEYS[1], 'token', 1)
redis.call('HSET', KEYS[1], 'holder', ARGV[1], 'until', ARGV[3])
return token
