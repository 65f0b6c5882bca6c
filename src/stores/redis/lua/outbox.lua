-- What the outbox's scripts share. An event's id is `<ms>-<ordinal>`; the ordinal counts a partition's events, so ids are compared by it alone.

local function partsOf(id)
  local ms, ordinal = string.match(id, '^(%d+)%-(%d+)$')
  if not ms then error('the id of an event is damaged') end
  return tonumber(ms), tonumber(ordinal)
end

local function whole(n) return string.format('%.0f', n) end

local function ordinalOf(id)
  local _, ordinal = partsOf(id)
  return ordinal
end

-- The id just before the oldest event that is kept; nil: none is.
local function beforeOldest(stream)
  local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  if not first then return nil end
  local ms, ordinal = partsOf(first[1])
  return whole(ms) .. '-' .. whole(ordinal - 1)
end
