-- Moves a consumer's cursor in one partition forward, if it still stands where its holder believes: a failover may have taken it back, and what is written
-- since then under the same ordinals has not been delivered.
--
-- KEYS     cursor
-- ARGV     token, id where it stands, id up to which everything is done
-- Result   'done'; 'stale': a newer token is obeyed; 'lost': it stands elsewhere

local cursor = redis.call('HMGET', KEYS[1], 'token', 'id')
if tonumber(cursor[1] or '0') > tonumber(ARGV[1]) then return 'stale' end
local id = cursor[2] or '0-0'
if id == ARGV[3] then return 'done' end
if id ~= ARGV[2] then return 'lost' end
if ordinalOf(ARGV[3]) > ordinalOf(id) then redis.call('HSET', KEYS[1], 'token', ARGV[1], 'id', ARGV[3]) end
return 'done'
