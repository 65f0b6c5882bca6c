-- Rows of the roll-ups as one text: names and values, separated by 0x1E. Of ten thousand rows a reply of single texts costs its reader more than all else.
--
-- KEYS     hashes, of one partition
-- Result   a text for each hash

local result = {}
for i, key in ipairs(KEYS) do result[i] = table.concat(redis.call('HGETALL', key), '\30') end
return result
