-- Adds what events of one partition come to and, in the same step, moves the mark of how far they are counted.
--
-- KEYS     mark, then hashes
-- ARGV     the mark that the caller knows (empty: none), the one to be (empty: there is none to be moved); then for each hash: its lifetime (ms since 1970), what it
--          has, the number of its rows, and for each row its name and what is added. A hash has
--            sums       15 numbers and WHOLE,NANOS|HISTOGRAM|HISTOGRAM: 1,1,200,0,0,80,0,280,900,1500,4000,0,0,1,0,0,130000000|72:1|35:1
--            latencies  HISTOGRAM|HISTOGRAM
--            texts      texts that are replaced; it has no lifetime
-- Result   'done', or the mark as it is where it is not the one that the caller knows ('-': there is none)
--
-- Everything is looked at before anything is written, because Lua does not roll back.

local mark = redis.call('GET', KEYS[1]) or ''
if ARGV[2] ~= '' and mark ~= ARGV[1] then return mark == '' and '-' or mark end

local NANOS = 1000000000
local call, format, floor, find, gmatch, match, sub, max, concat =
  redis.call, string.format, math.floor, string.find, string.gmatch, string.match, string.sub, math.max, table.concat

-- Adding slots up costs more than everything else here: they are put behind each other, behind a mark, until that is as long as what is before it. Readers add them up.
local SHORT = 300

local function histogram(one, other)
  if one == '' or other == '' then return one .. other end
  local added = find(one, '~', 1, true) or 0
  if #one - added + #other < max(SHORT, added) then return one .. (added == #one and '' or ',') .. other end
  local counts, order = {}, {}
  for slot, count in gmatch(one .. ',' .. other, '(%d+):(%-?%d+)') do
    if not counts[slot] then order[#order + 1] = slot end
    counts[slot] = (counts[slot] or 0) + count
  end
  for i, slot in ipairs(order) do order[i] = slot .. ':' .. format('%d', counts[slot]) end
  return concat(order, ',') .. '~'
end

local N = '(%-?%d+),'
local ROW = '^' .. string.rep(N, 16) .. '(%-?%d+)|'
-- Not by way of the shortest form of a number, which has 14 digits; and whole numbers are faster than those with a point.
local SUM = string.rep('%d,', 16) .. '%d'

-- HISTOGRAM|HISTOGRAM from a place on. A pattern would look at each character of what is long.
local function both(old, oldFrom, new, newFrom)
  local a, b = find(old, '|', oldFrom, true), find(new, '|', newFrom, true)
  if not a or not b then error('a row of the roll-ups is damaged') end
  return histogram(sub(old, oldFrom, a - 1), sub(new, newFrom, b - 1)) .. '|' .. histogram(sub(old, a + 1), sub(new, b + 1))
end

-- One call for all numbers: one by one they would take three times as long.
local function sum(old, new)
  local a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11, a12, a13, a14, a15, aw, an = match(old, ROW)
  local b1, b2, b3, b4, b5, b6, b7, b8, b9, b10, b11, b12, b13, b14, b15, bw, bn = match(new, ROW)
  if not a1 or not b1 then error('a row of the roll-ups is damaged') end
  -- So that neither part of the cost grows beyond what a number holds exactly.
  local nanos = an + bn
  local carry = floor(nanos / NANOS)
  local numbers = format(SUM, a1 + b1, a2 + b2, a3 + b3, a4 + b4, a5 + b5, a6 + b6, a7 + b7, a8 + b8, a9 + b9, a10 + b10, a11 + b11, a12 + b12, a13 + b13, a14 + b14, a15 + b15,
    aw + bw + carry, nanos - carry * NANOS)
  return numbers .. '|' .. both(old, find(old, '|', 1, true) + 1, new, find(new, '|', 1, true) + 1)
end

local function latencies(old, new)
  return both(old, 1, new, 1)
end

local writes, lifetimes = {}, {}
local at = 3
for i = 2, #KEYS do
  local has, count = ARGV[at + 1], tonumber(ARGV[at + 2])
  local adds = has == 'sums' and sum or has == 'latencies' and latencies or nil
  lifetimes[i] = ARGV[at]
  at = at + 3
  if not adds then
    local type = call('TYPE', KEYS[i]).ok
    if type ~= 'hash' and type ~= 'none' then error('a key of the roll-ups is damaged') end
  end
  local set = { KEYS[i] }
  for row = 1, count do
    local name, value = ARGV[at], ARGV[at + 1]
    at = at + 2
    if adds then
      local old = call('HGET', KEYS[i], name)
      if old then value = adds(old, value) end
    end
    set[row * 2] = name
    set[row * 2 + 1] = value
  end
  writes[i] = set
end

for i = 2, #KEYS do
  local set = writes[i]
  -- A call takes some thousand arguments at most.
  for first = 2, #set, 2000 do call('HSET', KEYS[i], unpack(set, first, math.min(first + 1999, #set))) end
  if lifetimes[i] ~= '' then call('PEXPIREAT', KEYS[i], lifetimes[i]) end
end
if ARGV[2] ~= '' then call('SET', KEYS[1], ARGV[2]) end
return 'done'
