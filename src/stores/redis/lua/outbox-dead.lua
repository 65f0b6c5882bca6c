-- A page of the dead, in order.
--
-- KEYS     the dead (hash), their order (sorted set)
-- ARGV     the first and the last member, how many at most, how many bytes at about most
-- Result   { 1: all of the dead are in their order, then members and values in turn; a value is empty where there is none }

local whole = redis.call('HLEN', KEYS[1]) == redis.call('ZCARD', KEYS[2])
local page = { whole and 1 or 0 }
local bytes = 0
for _, member in ipairs(redis.call('ZRANGEBYLEX', KEYS[2], ARGV[1], ARGV[2], 'LIMIT', 0, ARGV[3])) do
  if bytes >= tonumber(ARGV[4]) then break end
  local value = redis.call('HGET', KEYS[1], deadField(member)) or ''
  if value == '' then page[1] = 0 end
  page[#page + 1] = member
  page[#page + 1] = value
  bytes = bytes + #value
end
return page
