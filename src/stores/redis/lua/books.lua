-- What both scripts share: the arithmetic of metering/ledger.ts and standing.ts, in the same order and words, and the writing down of what was decided.
--
-- KEYS     [1 .. plain]  string keys: counters (settled, and right behind it pending), reservations, epochs, ids of the last events
--          [plain + n]   the others: due (sorted set), events (stream)
-- ARGV[1]  the epoch that the caller knows      ARGV[2]  plain
-- ARGV[3…] the moves: one JSON array each, `[name, …]`, followed by its texts, which are kept or compared as they are
-- Result   one text per move, in their order: the outcome, and what belongs to it, in lines
--
-- Invariant: a move decides on what it sees and changes nothing until it has decided; the only calls that write are at the end of the script, and every key
-- that they touch has been found to be of the right type by then. So nothing is ever half done, although Lua does not roll back.
-- Numbers: counters are compared as numbers and changed by INCRBY with whole amounts as text; a counter is never written from a number.

local FORMAT = '1'
local epoch, plain = ARGV[1], tonumber(ARGV[2])
local concat, floor, max, min, match, decode = table.concat, math.floor, math.max, math.min, string.match, cjson.decode
local LARGEST = 9007199254740992

-- === Reading ===

-- One look at everything: false is absent. The caller sends no more than one call may have.
local raw = plain > 0 and redis.call('MGET', unpack(KEYS, 1, plain)) or {}

-- MGET shows a key of another type as absent: INCRBY on it would fail when something else has been written already.
local damaged = {}
do
  local present = 0
  for i = 1, plain do
    if raw[i] then present = present + 1 end
  end
  if plain > 0 and redis.call('EXISTS', unpack(KEYS, 1, plain)) ~= present then
    for i = 1, plain do
      if not raw[i] and redis.call('EXISTS', KEYS[i]) == 1 then damaged[i] = true end
    end
  end
end
local anyDamaged = next(damaged) ~= nil

local function typeIs(other, wanted)
  local key = plain + other
  if damaged[key] == nil then
    local found = redis.call('TYPE', KEYS[key]).ok
    damaged[key] = found ~= 'none' and found ~= wanted
  end
  if damaged[key] then error('broken') end
end

-- Counters that this script has looked at or changed; by how much; how long they are kept; which are pending.
local values, deltas, lifetimes, pendings = {}, {}, {}, {}

-- A counter's value; absent is 0.
local function get(key)
  local value = values[key]
  if value == nil then
    if damaged[key] then error('broken') end
    local text = raw[key]
    if not text then return 0 end
    -- As INCRBY wants it: Lua would take hexadecimal, fractions and "nan" as well, and with "nan" nothing is ever too much.
    if text ~= '0' and not string.find(text, '^%-?[1-9]%d*$') then error('broken') end
    value = tonumber(text)
    if value > 9.2e18 or value < -9.2e18 then error('broken') end
    values[key] = value
  end
  return value
end

-- A text; nil where there is none.
local function read(key)
  if damaged[key] then error('broken') end
  return raw[key] or nil
end

local function whole(number)
  if number > -1e14 and number < 1e14 then return number end
  return string.format('%.0f', number)
end

local function numbersOf(text)
  local numbers = {}
  for one in string.gmatch(text, '[^,]+') do numbers[#numbers + 1] = tonumber(one) end
  return numbers
end

-- 'requests=1,total_tokens=100'
local function usageOf(text)
  local usage, order = {}, {}
  for name, value in string.gmatch(text, '([^=,]+)=([^,]+)') do
    usage[name] = tonumber(value)
    order[#order + 1] = name
  end
  return usage, order
end

local function csv(numbers)
  local texts = {}
  for i = 1, #numbers do texts[i] = whole(numbers[i]) end
  return concat(texts, ',')
end

-- === Reservations ===
-- A text in lines; moves.ts has the same list. 1S: settled, with its digest. 1V: voided. 1O: open, 1E: expired:
-- home, u, deadline, checkpoint, held, counted amounts or '-', counted usage, booked amounts or '-', booked usage, corrections, slots, lines, skeleton

local reservations = {}
local OPEN = '^([^\n]*)\n(%d+)\n(%d+)\n(%d+)\n([%d,]*)\n([%d,%-]*)\n([^\n]*)\n([%d,%-]*)\n([^\n]*)\n(%d+)\n([^\n]*)\n([^\n]*)\n([^\n]*)'

local function reservation(key)
  local r = reservations[key]
  if r ~= nil then return r end
  local text = read(key)
  if text == nil then
    r = { state = 'none' }
  else
    local state, rest = match(text, '^' .. FORMAT .. '(%u)\n?(.*)')
    if state == 'S' and rest ~= '' then
      r = { state = 'S', digest = match(rest, '^[^\n]*') }
    elseif state == 'V' then
      r = { state = 'V' }
    elseif state == 'O' or state == 'E' then
      local home, u, deadline, checkpoint, held, counted, countedUsage, booked, bookedUsage, corrections, slots, lines, skeleton = match(rest, OPEN)
      if not home then error('broken') end
      r = {
        state = state, home = home, u = tonumber(u), deadline = tonumber(deadline), checkpoint = tonumber(checkpoint), held = numbersOf(held),
        counted = counted ~= '-' and numbersOf(counted) or nil, countedUsage = countedUsage, booked = booked ~= '-' and numbersOf(booked) or nil, bookedUsage = bookedUsage,
        corrections = tonumber(corrections), slots = slots, lines = lines, skeleton = skeleton,
      }
      -- One number for each line, or what is missing would be taken for 0.
      if (r.counted and #r.counted ~= #r.held) or (r.booked and #r.booked ~= #r.held) then error('broken') end
    else
      error('broken')
    end
  end
  reservations[key] = r
  return r
end

local function textOf(r)
  if r.state == 'S' then return FORMAT .. 'S\n' .. r.digest end
  if r.state == 'V' then return FORMAT .. 'V' end
  return concat({
    FORMAT .. r.state, r.home, whole(r.u), whole(r.deadline), whole(r.checkpoint), csv(r.held), r.counted and csv(r.counted) or '-', r.countedUsage,
    r.booked and csv(r.booked) or '-', r.bookedUsage, whole(r.corrections), r.slots, r.lines, r.skeleton,
  }, '\n')
end

-- === Arithmetic ===
-- check:   { first, count, at, span, fixed, perUnit, clampable, ceilings, ttl, alongside?, slots? }. Slots are settled keys, each with pending right behind it: `count`
--          pairs from `first` on, or, where they do not lie side by side, the list `slots`; at counts from 1. alongside: slots of the periods before and after, or false
-- ceiling: { refuses, buckets, beyond? };  bucket: { ceiling or -1 for unlimited, key of its counter or 0, its name as JSON, ttl? }: one with a ttl outlives the period,
--          and beyond is the counter of what such buckets were drawn in this period

local function slotOf(check, i)
  return check[11] and check[11][i] or check[1] + 2 * (i - 1)
end

-- The slots of a sliding window with anything in them, and the admission's; most are empty. Kept with the check: a move looks for them once.
local function slotsInUse(check)
  local used = check.used
  if used then return used end
  used = {}
  local n, first, list, at = 0, check[1], check[11], check[3]
  for i = 1, check[2] do
    local key = list and list[i] or first + 2 * (i - 1)
    if raw[key] or raw[key + 1] or values[key] or values[key + 1] or i == at or anyDamaged then
      n = n + 1
      used[n] = i
    end
  end
  check.used = used
  return used
end

-- Settled and pending over the fullest window of `span` slots that contains the admission's.
local function useOf(check)
  local n = check[2]
  if n == 1 then return get(check[1]), get(check[1] + 1) end
  local at, span, used = check[3], check[4], slotsInUse(check)
  local fullestSettled, fullestPending = 0, 0
  for from = max(1, at - span + 1), min(at, max(1, n - span + 1)) do
    local settled, pending = 0, 0
    for u = 1, #used do
      local i = used[u]
      if i >= from and i < from + span then
        local key = slotOf(check, i)
        settled = settled + get(key)
        pending = pending + get(key + 1)
      end
    end
    if settled + pending > fullestSettled + fullestPending then fullestSettled, fullestPending = settled, pending end
  end
  return fullestSettled, fullestPending
end

-- nil is unlimited.
local function freeOf(ceiling, settled)
  local buckets, beyond = ceiling[2], ceiling[3]
  local first = buckets[1]
  local drawnBeyond = beyond and get(beyond) or 0
  if #buckets == 1 then
    if first[1] < 0 then return nil end
    return first[1] - settled + drawnBeyond
  end
  local later, free, total = drawnBeyond, 0, drawnBeyond
  for i = 2, #buckets do
    local bucket = buckets[i]
    if bucket[1] < 0 then return nil end
    local drawn = get(bucket[2])
    if bucket[4] then
      total = total + bucket[1] - drawn
    else
      later = later + drawn
      total = total + bucket[1]
    end
    free = free + max(0, bucket[1] - drawn)
  end
  if first[1] < 0 then return nil end
  return min(free + max(0, first[1] - (settled - later)), first[1] + total - settled)
end

-- What open reservations hold of what a ceiling is made of; see standing.ts.
local function heldAgainst(buckets, beyond, alongside, pending)
  if not beyond or not alongside then return pending end
  local held = 0
  for i = 1, #alongside do held = held + get(alongside[i] + 1) end
  if held == 0 then return pending end
  local left = 0
  for i = 2, #buckets do
    local bucket = buckets[i]
    if bucket[4] then left = left + (bucket[1] < 0 and held or max(0, bucket[1] - get(bucket[2]))) end
  end
  return pending + min(left, held)
end

-- The largest u in [uMin, uMax] that every refusing check admits, or who refuses. `fixed`: instead of the checks' own, then perUnit is 0.
local function fit(checks, uMin, uMax, fixed)
  local u, refusals, shadowed = uMax, {}, {}
  for c = 1, #checks do
    local check = checks[c]
    local need, perUnit, clampable = check[5], check[6], check[7] == 1
    if fixed then need, perUnit, clampable = fixed[c], 0, false end
    local most = need + perUnit * uMax
    -- A call that needs nothing of a meter is never refused for it.
    if most ~= 0 then
      local settled, pending = useOf(check)
      clampable = clampable and perUnit > 0
      local ceilings = check[8]
      for k = 1, #ceilings do
        local ceiling = ceilings[k]
        local free = freeOf(ceiling, settled)
        if free then
          local room = free - heldAgainst(ceiling[2], ceiling[3], check[10], pending)
          if ceiling[1] == 0 then
            if most > room then shadowed[#shadowed + 1] = (c - 1) .. '.' .. (k - 1) end
          else
            local least = clampable and need + perUnit * uMin or most
            if least > room then
              refusals[#refusals + 1] = (c - 1) .. '.' .. (k - 1) .. '.' .. (least > free and 'u' or 'h')
            elseif clampable then
              u = min(u, floor((room - need) / perUnit))
            end
          end
        end
      end
    end
  end
  return u, concat(refusals, ','), concat(shadowed, ',')
end

-- Where the checks stand, in one list: for a check of one slot its settled and pending; for one of several how many of them are in use, and of each its place,
-- settled, pending; then the pending of those alongside, and of each ceiling beyond and the counters of later buckets. Balances are made of it by standing.ts. What has not been changed goes out as the text that it is.
local function standingOf(checks)
  local out, n = {}, 0
  local function put(key)
    n = n + 1
    out[n] = deltas[key] and whole(values[key]) or raw[key] or '0'
  end
  for c = 1, #checks do
    local check = checks[c]
    if check[2] == 1 then
      put(check[1])
      put(check[1] + 1)
    else
      local used = slotsInUse(check)
      n = n + 1
      out[n] = #used
      for u = 1, #used do
        n = n + 1
        out[n] = used[u] - 1
        local key = slotOf(check, used[u])
        put(key)
        put(key + 1)
      end
    end
    local alongside = check[10]
    if alongside then
      for i = 1, #alongside do put(alongside[i] + 1) end
    end
    local ceilings = check[8]
    for k = 1, #ceilings do
      local buckets, beyond = ceilings[k][2], ceilings[k][3]
      if beyond then put(beyond) end
      for b = 2, #buckets do put(buckets[b][2]) end
    end
  end
  return concat(out, ' ')
end

-- === Deciding and writing ===

local changed, writes = {}, {}

-- May this counter be changed by this? Asked for every change of a move before the first one is made.
local function mayAdd(key, amount)
  local sum = get(key) + amount
  if sum > 9.2e18 or sum < -9.2e18 then error('broken') end
  local delta = (deltas[key] or 0) + amount
  if delta > LARGEST or delta < -LARGEST then error('broken') end
end

local function add(key, amount, lifetime)
  values[key] = get(key) + amount
  deltas[key] = (deltas[key] or 0) + amount
  lifetimes[key] = lifetime
end

-- Changes are gathered as { key, amount, ttl } and made together.
local function mayAll(changes)
  for i = 1, #changes do
    local change = changes[i]
    if change[2] ~= 0 then mayAdd(change[1], change[2]) end
  end
end

local function make(changes)
  for i = 1, #changes do
    local change = changes[i]
    if change[2] ~= 0 then add(change[1], change[2], change[3]) end
  end
end

-- What is pending needs no end of its own: it is deleted when nothing is.
local function hold(changes, slot, amount)
  pendings[slot + 1] = true
  -- Nothing frees more than it held: else the pending counter was damaged.
  if amount < 0 and get(slot + 1) + amount < 0 then error('broken') end
  changes[#changes + 1] = { slot + 1, amount, 0 }
end

local function keep(key, r, ttl)
  reservations[key] = r
  changed[key] = ttl
end

local function onceWritten(...)
  writes[#writes + 1] = { ... }
end

local function beyondOf(amount, free, pending, within)
  return min(amount - free + max(0, pending - within), max(0, amount - within))
end

local function note(list, bucket, share)
  list[#list + 1] = '{"bucket":' .. bucket[3] .. ',"amount":' .. whole(share) .. '}'
end

-- Spreads an amount over buckets in order by what is settled alone; see ledger.ts. Gives the changes of counters, and the JSON of draws and overruns.
local function draw(changes, drawn, overruns, slot, settled, pending, buckets, beyond, alongside, ttl, amount, within)
  if amount == 0 then return end
  changes[#changes + 1] = { slot, amount, ttl }
  local last = #buckets
  local drawnBeyond = beyond and get(beyond) or 0
  local held = heldAgainst(buckets, beyond, alongside, pending)
  if last == 1 then
    note(drawn, buckets[1], amount)
    local ceiling = buckets[1][1]
    local over = ceiling < 0 and 0 or beyondOf(amount, max(0, ceiling - settled + drawnBeyond), held, within)
    if over > 0 then note(overruns, buckets[1], over) end
    return
  end
  local sharedBeyond = 0
  local function take(i, share)
    if share == 0 then return end
    local bucket = buckets[i]
    if bucket[2] ~= 0 then changes[#changes + 1] = { bucket[2], share, bucket[4] or ttl } end
    if bucket[4] then sharedBeyond = sharedBeyond + share end
    note(drawn, bucket, share)
  end
  local laterDrawn, later = { 0 }, drawnBeyond
  for i = 2, last do
    laterDrawn[i] = buckets[i][2] ~= 0 and get(buckets[i][2]) or 0
    if not buckets[i][4] then later = later + laterDrawn[i] end
  end
  if amount < 0 then
    local back, backBeyond = -amount, drawnBeyond
    for i = last, 2, -1 do
      local share = min(back, laterDrawn[i])
      if buckets[i][4] then share = min(share, backBeyond) end
      share = max(0, share)
      take(i, -share)
      back = back - share
      if buckets[i][4] then backBeyond = backBeyond - share end
    end
    take(1, -back)
  else
    local rest, free, shares = amount, 0, {}
    for i = 1, last do
      local has = i == 1 and settled - later or laterDrawn[i]
      local ceiling = buckets[i][1]
      if ceiling < 0 then
        free = nil
        shares[i] = rest
      else
        local left = max(0, ceiling - has)
        if free then free = free + left end
        shares[i] = min(rest, left)
      end
      rest = rest - shares[i]
    end
    local over = free and beyondOf(amount, free, held, within) or 0
    shares[last] = shares[last] + rest
    for i = 1, last do take(i, shares[i]) end
    if over > 0 then note(overruns, buckets[last], over) end
  end
  if sharedBeyond ~= 0 then changes[#changes + 1] = { beyond, sharedBeyond, ttl } end
end

-- The ceiling whose buckets are drawn: the one with grants, else the first that refuses, else the first.
local function drawnCeiling(check)
  local ceilings = check[8]
  for k = 1, #ceilings do
    if ceilings[k][3] then return ceilings[k] end
  end
  for k = 1, #ceilings do
    if ceilings[k][1] == 1 then return ceilings[k] end
  end
  return ceilings[1]
end

-- The id of a partition's next event: instant and ordinal, both rising.
local lastIds = {}
local function nextEventId(key, events, nowMs)
  local text = lastIds[key] or read(key)
  local ms, ordinal = 0, 0
  if text then
    local m, o = string.match(text, '^(%d+)%-(%d+)$')
    if not m then error('broken') end
    ms, ordinal = tonumber(m), tonumber(o)
  elseif redis.call('EXISTS', KEYS[plain + events]) == 1 then
    -- Events whose count is lost: consumers would take the next ones for those that they have.
    error('broken')
  end
  return whole(max(ms, nowMs)) .. '-' .. whole(ordinal + 1)
end

-- The keys of what a reservation holds: `own` where the caller's slots are the reservation's, else those that he was told of (`told`), else nil: he must ask again.
local function heldSlots(r, slots, own, told)
  if r.slots == slots then return own end
  if told ~= nil and told ~= cjson.null then return told end
  return nil
end

local function admissionSlots(checks)
  local slots = {}
  for c = 1, #checks do slots[c] = slotOf(checks[c], checks[c][3]) end
  return slots
end

local moves = {}

local function run()
  local answers, a = {}, 3
  while a <= #ARGV do
    local m = decode(ARGV[a])
    local move = moves[m[1]]
    local texts = {}
    for i = 1, move.texts do texts[i] = ARGV[a + i] end
    a = a + 1 + move.texts
    local answer
    if raw[m[2]] ~= epoch then
      answer = 'epoch'
    else
      local ok, given = pcall(move.make, m, texts)
      if ok then
        answer = given
      elseif string.find(tostring(given), 'broken', 1, true) then
        answer = 'broken'
      else
        answer = 'broken\n' .. tostring(given)
      end
    end
    answers[#answers + 1] = answer
  end
  -- What frees comes first: an older server lets a script that has written go on although memory is short.
  for key, delta in pairs(deltas) do
    if pendings[key] and values[key] == 0 then
      if raw[key] then redis.call('DEL', KEYS[key]) end
      deltas[key] = 0
    end
  end
  for key, delta in pairs(deltas) do
    if delta ~= 0 then
      redis.call('INCRBY', KEYS[key], string.format('%.0f', delta))
      if not raw[key] and lifetimes[key] > 0 then redis.call('PEXPIRE', KEYS[key], lifetimes[key]) end
    end
  end
  for key, ttl in pairs(changed) do
    if ttl > 0 then
      redis.call('SET', KEYS[key], textOf(reservations[key]), 'PX', ttl)
    else
      redis.call('SET', KEYS[key], textOf(reservations[key]))
    end
  end
  for i = 1, #writes do redis.call(unpack(writes[i])) end
  for key, id in pairs(lastIds) do redis.call('SET', KEYS[key], id) end
  return answers
end
