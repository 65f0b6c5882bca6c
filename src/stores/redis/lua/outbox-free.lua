-- Ends a lease before its time: its token is obeyed no more, and anyone may take it.
--
-- KEYS[1]  the lease
-- ARGV     the token that must hold it (0: whoever does), a token that the next one must exceed as well
-- Result   1: ended, 0: another holds it

local token = tonumber(redis.call('HGET', KEYS[1], 'token') or '0')
if ARGV[1] ~= '0' and tonumber(ARGV[1]) ~= token then return 0 end
redis.call('HSET', KEYS[1], 'holder', '', 'until', '0', 'token', whole(math.max(token, tonumber(ARGV[2])) + 1))
return 1
