-- Moves a consumer's cursor in one partition back, so that it delivers again; never forward.
--
-- KEYS     cursor, stream
-- ARGV     id up to which everything stays done (empty: nothing does)
-- Result   1: moved, 0: it stands there or before it already

local id = redis.call('HGET', KEYS[1], 'id')
if not id then return 0 end
local to
if ARGV[1] ~= '' then
  local found = redis.call('XREVRANGE', KEYS[2], ARGV[1], '-', 'COUNT', 1)[1]
  to = found and found[1]
end
to = to or beforeOldest(KEYS[2])
if not to or ordinalOf(id) <= ordinalOf(to) then return 0 end
redis.call('HSET', KEYS[1], 'id', to)
return 1
