-- Removes a partition's oldest events that every consumer is done with, and counts those that one still waits for.
--
-- KEYS     stream, id of the last event, then the cursors of the consumers that hold back trimming
-- ARGV     events before this instant may go, ms; how many at once
-- Result   { how many were removed, how many are undelivered }

local last = redis.call('GET', KEYS[2])
if not last then return { 0, 0 } end
local done = last
for i = 3, #KEYS do
  local id = redis.call('HGET', KEYS[i], 'id') or beforeOldest(KEYS[1]) or last
  if ordinalOf(id) < ordinalOf(done) then done = id end
end
local ms, ordinal = partsOf(done)
local keep = ms < tonumber(ARGV[1]) and whole(ms) .. '-' .. whole(ordinal + 1) or ARGV[1] .. '-0'
-- By whole nodes of the stream, some hundred bytes to some kilobytes: that is far cheaper, and an event more or less does not matter.
local removed = redis.call('XTRIM', KEYS[1], 'MINID', '~', keep, 'LIMIT', ARGV[2])
-- What was removed before a consumer had it is reported as its gap and is waited for no more.
local oldest = ordinalOf(beforeOldest(KEYS[1]) or last)
return { removed, ordinalOf(last) - math.max(ordinalOf(done), oldest) }
