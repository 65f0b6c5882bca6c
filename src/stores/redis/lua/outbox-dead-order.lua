-- Puts some of the dead into their order, where a release that knew none has buried or exhumed.
--
-- KEYS     the dead (hash), their order (sorted set)
-- ARGV     'add': what is dead is put into it, 'drop': what is not is taken out; the cursor of a scan, how many at about
-- Result   the next cursor; '0': that was all

if ARGV[1] == 'add' then
  local found = redis.call('HSCAN', KEYS[1], ARGV[2], 'COUNT', ARGV[3])
  for i = 1, #found[2], 200 do
    local members = {}
    for j = i, math.min(i + 198, #found[2]), 2 do
      members[#members + 1] = 0
      members[#members + 1] = deadMember(found[2][j])
    end
    redis.call('ZADD', KEYS[2], unpack(members))
  end
  return found[1]
end
local found = redis.call('ZSCAN', KEYS[2], ARGV[2], 'COUNT', ARGV[3])
for i = 1, #found[2], 2 do
  if redis.call('HEXISTS', KEYS[1], deadField(found[2][i])) == 0 then redis.call('ZREM', KEYS[2], found[2][i]) end
end
return found[1]
