-- Makes a consumer's cursor in one partition obey a lease's token, before anything is read by it. A cursor that is new stands before the oldest kept event;
-- one whose next events have been removed is moved there, and says how many it missed.
--
-- KEYS     cursor (hash: token, id), stream, id of the last event
-- ARGV     token, 1: only make a cursor where there is none
-- Result   'held', the id of the last event that is done, how many events were missed; or 'stale', the token that is obeyed

local held = tonumber(redis.call('HGET', KEYS[1], 'token') or '0')
local id = redis.call('HGET', KEYS[1], 'id')
if ARGV[2] == '1' and id then return { 'held', id, 0 } end
if held > tonumber(ARGV[1]) then return { 'stale', held } end
local oldest = beforeOldest(KEYS[2]) or redis.call('GET', KEYS[3]) or '0-0'
local missed = 0
if not id then
  id = oldest
elseif ordinalOf(id) < ordinalOf(oldest) then
  missed = ordinalOf(oldest) - ordinalOf(id)
  id = oldest
end
redis.call('HSET', KEYS[1], 'token', ARGV[1], 'id', id)
return { 'held', id, missed }
