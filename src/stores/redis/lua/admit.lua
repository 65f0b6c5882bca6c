-- reserve and extend. Denied by the server when memory is short: nothing new is admitted then.

-- ['reserve', epoch, reservation, due, id, deadline, uMin, uMax, forgotten, checks], slots, lines, skeleton, home
moves.reserve = { texts = 4, make = function(m, texts)
  local key, due, id, checks = m[3], m[4], m[5], m[10]
  local r = reservation(key)
  -- The same grant again: it holds nothing more.
  if r.state == 'O' then return 'admitted\n' .. whole(r.u) .. '\n\n' .. standingOf(checks) end
  if r.state == 'E' then return 'expired' end
  if r.state == 'V' then return 'already_voided' end
  if r.state == 'S' then return 'already_settled' end
  if m[9] == 1 then return 'too_old' end
  local u, refusals, shadowed = fit(checks, m[7], m[8])
  if refusals ~= '' then return 'denied\n' .. refusals .. '\n' .. standingOf(checks) end
  local held, changes = {}, {}
  for c = 1, #checks do
    local check = checks[c]
    held[c] = check[5] + check[6] * u
    hold(changes, slotOf(check, check[3]), held[c])
  end
  mayAll(changes)
  typeIs(due, 'zset')
  make(changes)
  keep(key, {
    state = 'O', home = texts[4], u = u, deadline = m[6], checkpoint = 0, held = held, countedUsage = '', bookedUsage = '', corrections = 0,
    slots = texts[1], lines = texts[2], skeleton = texts[3],
  }, 0)
  onceWritten('ZADD', KEYS[plain + due], whole(m[6]), id)
  return 'admitted\n' .. whole(u) .. '\n' .. shadowed .. '\n' .. standingOf(checks)
end }

local function risen(before, now)
  if not before then return now end
  if not now then return before end
  local higher = {}
  for i = 1, #before do higher[i] = max(before[i], now[i]) end
  return higher
end

local function risenUsage(before, now)
  if before == '' then return now end
  if now == '' then return before end
  local was, order = usageOf(before)
  local is, added = usageOf(now)
  for i = 1, #added do
    local name = added[i]
    if was[name] == nil then order[#order + 1] = name end
    was[name] = max(was[name] or is[name], is[name])
  end
  local texts = {}
  for i = 1, #order do texts[i] = order[i] .. '=' .. whole(was[order[i]]) end
  return concat(texts, ',')
end

-- ['extend', epoch, reservation, due, id, checkpoint, deadline, amounts or null, checks or null, told or null, ttl], slots, counted usage
moves.extend = { texts = 2, make = function(m, texts)
  local key, due, id, checkpoint, deadline = m[3], m[4], m[5], m[6], m[7]
  local amounts = m[8] ~= cjson.null and m[8] or nil
  local checks = m[9] ~= cjson.null and m[9] or nil
  local r = reservation(key)
  if r.state == 'none' then return 'unknown' end
  if r.state == 'V' then return 'already_voided' end
  if r.state == 'S' then return 'already_settled' end

  if r.state == 'E' then
    if not checks then return 'expired' end
    local slots = heldSlots(r, texts[1], admissionSlots(checks), m[10])
    if not slots then return 'again\n' .. r.slots end
    local rest, changes = {}, {}
    for c = 1, #checks do rest[c] = max(0, checks[c][5] - r.booked[c]) end
    local _, refusals = fit(checks, 0, 0, rest)
    if refusals ~= '' then return 'expired' end
    for c = 1, #checks do hold(changes, slots[c], rest[c]) end
    mayAll(changes)
    typeIs(due, 'zset')
    local counted = risen(r.booked, amounts)
    local countedUsage = amounts and risenUsage(r.bookedUsage, texts[2]) or r.bookedUsage
    make(changes)
    keep(key, {
      state = 'O', home = r.home, u = r.u, deadline = deadline, checkpoint = checkpoint, held = rest, counted = counted, countedUsage = countedUsage,
      booked = r.booked, bookedUsage = r.bookedUsage, corrections = r.corrections, slots = r.slots, lines = r.lines, skeleton = r.skeleton,
    }, 0)
    onceWritten('ZADD', KEYS[plain + due], whole(deadline), id)
    return 'revived'
  end

  local held, refusals, changes = nil, '', {}
  if checks then
    local wanted, raises, rises = {}, {}, false
    for c = 1, #checks do
      -- A revived reservation has already booked a part; only the rest is held.
      wanted[c] = max(r.held[c], checks[c][5] - (r.booked and r.booked[c] or 0))
      raises[c] = wanted[c] - r.held[c]
      rises = rises or raises[c] > 0
    end
    if rises then
      local _
      _, refusals = fit(checks, 0, 0, raises)
      if refusals == '' then
        local slots = heldSlots(r, texts[1], admissionSlots(checks), m[10])
        if not slots then return 'again\n' .. r.slots end
        held = wanted
        for c = 1, #checks do hold(changes, slots[c], raises[c]) end
      end
    end
  end
  -- A denied extend still tells what was counted and that its gateway lives; a delayed older one tells nothing.
  local newer = checkpoint > r.checkpoint
  local answer = refusals ~= '' and 'denied\n' .. refusals or 'extended'
  if not newer and not held then return answer end
  mayAll(changes)
  typeIs(due, 'zset')
  local next = {}
  for name, value in pairs(r) do next[name] = value end
  if held then next.held = held end
  if newer then
    next.checkpoint = checkpoint
    next.deadline = max(deadline, r.deadline)
    if amounts then
      next.counted = risen(r.counted, amounts)
      next.countedUsage = r.counted and risenUsage(r.countedUsage, texts[2]) or texts[2]
    end
  end
  make(changes)
  if newer then onceWritten('ZADD', KEYS[plain + due], whole(next.deadline), id) end
  keep(key, next, 0)
  return answer
end }

return run()
