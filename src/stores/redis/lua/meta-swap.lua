-- Writes the books' mark where it is still what the writer has read: of several who would change it, one does.
--
-- KEYS     meta
-- ARGV     as it was read, as it shall be
-- Result   as it is now; nothing where there is none

local found = redis.call('GET', KEYS[1])
if found ~= ARGV[1] then return found end
redis.call('SET', KEYS[1], ARGV[2])
return ARGV[2]
