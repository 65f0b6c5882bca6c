-- Adds what events of one partition come to and, in the same step, moves the mark of how far they are counted.
--
-- KEYS     mark, then hashes: rows by their names (SUMS|WHOLE,NANOS|HISTOGRAM|HISTOGRAM, where nothing stands for 0), or with lifetime 0 texts that are replaced
-- ARGV     the mark that the caller knows (empty: none), the one to be (empty: there is none to be moved); then for each hash: its lifetime (ms since 1970, or 0),
--          the number of its rows, and for each row its name and what is added
-- Result   'done', or the mark as it is where it is not the one that the caller knows ('-': there is none)
--
-- Everything is looked at before anything is written, because Lua does not roll back.

local mark = redis.call('GET', KEYS[1]) or ''
if ARGV[2] ~= '' and mark ~= ARGV[1] then return mark == '' and '-' or mark end

local NANOS = 1000000000
local format, floor, gmatch, match, concat = string.format, math.floor, string.gmatch, string.match, table.concat

local function whole(n)
  if n == 0 then return '' end
  return format('%.0f', n)
end

local function numbers(text)
  local list, n = {}, 0
  for each in gmatch(text .. ',', '([^,]*),') do
    n = n + 1
    list[n] = each == '' and 0 or tonumber(each)
  end
  return list
end

-- Adding slots up costs more than everything else here: for as long as that is short, they are put behind each other, and readers add them up.
local SHORT = 600

local function histogram(one, other)
  if one == '' or other == '' then return one .. other end
  if #one + #other < SHORT then return one .. ',' .. other end
  local counts, order = {}, {}
  for slot, count in gmatch(one .. ',' .. other, '(%d+):(%-?%d+)') do
    if not counts[slot] then order[#order + 1] = slot end
    counts[slot] = (counts[slot] or 0) + tonumber(count)
  end
  for i, slot in ipairs(order) do order[i] = slot .. ':' .. format('%.0f', counts[slot]) end
  return concat(order, ',')
end

local PARTS = '^([^|]*)|([^|]*)|([^|]*)|([^|]*)$'

local function sum(old, new)
  local sumsA, costA, latencyA, firstA = match(old, PARTS)
  local sumsB, costB, latencyB, firstB = match(new, PARTS)
  if not sumsA or not sumsB then error('a row of the roll-ups is damaged') end
  local a, b = numbers(sumsA), numbers(sumsB)
  for i = 1, math.max(#a, #b) do a[i] = whole((a[i] or 0) + (b[i] or 0)) end
  local cost = ''
  if costA ~= '' or costB ~= '' then
    local c, d = numbers(costA), numbers(costB)
    local nanos = (c[2] or 0) + (d[2] or 0)
    -- So that neither grows beyond what a number holds exactly.
    local carry = floor(nanos / NANOS)
    cost = format('%.0f,%.0f', (c[1] or 0) + (d[1] or 0) + carry, nanos - carry * NANOS)
  end
  return concat(a, ',') .. '|' .. cost .. '|' .. histogram(latencyA, latencyB) .. '|' .. histogram(firstA, firstB)
end

local writes, lifetimes = {}, {}
local at = 3
for i = 2, #KEYS do
  local type = redis.call('TYPE', KEYS[i]).ok
  if type ~= 'hash' and type ~= 'none' then error('a key of the roll-ups is damaged') end
  local lifetime, count = ARGV[at], tonumber(ARGV[at + 1])
  local set = { KEYS[i] }
  at = at + 2
  for row = 1, count do
    local name, value = ARGV[at], ARGV[at + 1]
    at = at + 2
    if lifetime ~= '0' then
      local old = redis.call('HGET', KEYS[i], name)
      if old then value = sum(old, value) end
    end
    set[#set + 1] = name
    set[#set + 1] = value
  end
  writes[i] = set
  lifetimes[i] = lifetime
end

for i = 2, #KEYS do
  local set = writes[i]
  -- A call takes some thousand arguments at most.
  for first = 2, #set, 2000 do redis.call('HSET', KEYS[i], unpack(set, first, math.min(first + 1999, #set))) end
  if lifetimes[i] ~= '0' then redis.call('PEXPIREAT', KEYS[i], lifetimes[i]) end
end
if ARGV[2] ~= '' then redis.call('SET', KEYS[1], ARGV[2]) end
return 'done'
