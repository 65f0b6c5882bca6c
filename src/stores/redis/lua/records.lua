-- Writes one document, and that it has changed, in one step.
--
-- KEYS     documents of the kind (hash), changes (stream)
-- ARGV     'put', kind, id, value
--          'swap', kind, id, value, 1 if one is expected and 0 if none is, expected value
--          'delete', kind, id, the value that is expected, or nothing
-- Result   { 1 } written, or nothing to write; { 0, the value or nothing }: it is not what was expected

local name, kind, id, value = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local function changed()
  -- Entries name what to look up again, so the server's own ids serve: they only have to rise.
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', '10000', '*', 'k', kind, 'i', id)
  return { 1 }
end

if name == 'delete' then
  if value then
    local found = redis.call('HGET', KEYS[1], id)
    if found and found ~= value then return { 0, found } end
  end
  if redis.call('HDEL', KEYS[1], id) == 1 then return changed() end
  return { 1 }
end
if name == 'swap' then
  local found = redis.call('HGET', KEYS[1], id)
  if found == value then return { 1 } end
  local expected = ARGV[5] == '1' and ARGV[6]
  if found ~= expected then return { 0, found } end
end
redis.call('HSET', KEYS[1], id, value)
return changed()
