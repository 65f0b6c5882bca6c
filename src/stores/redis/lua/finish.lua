-- settle, void and expire. They let go of what is held and write down what was used, so they must work although memory is short.

local function append(last, events, nowMs, record)
  local id = nextEventId(last, events, nowMs)
  lastIds[last] = id
  local fields = { 'XADD', KEYS[plain + events], id, 'v', FORMAT, 'i', record.id, 'k', record.kind, 'c', whole(record.correction), 't', whole(nowMs), 'b', record.body, 'u', record.usage }
  if record.booked then
    fields[#fields + 1] = 'p'
    fields[#fields + 1] = record.booked
  end
  fields[#fields + 1] = 'd'
  fields[#fields + 1] = '[' .. concat(record.drawn, ',') .. ']'
  fields[#fields + 1] = 'o'
  fields[#fields + 1] = '[' .. concat(record.overruns, ',') .. ']'
  writes[#writes + 1] = fields
end

local function freed(changes, r, slots)
  for i = 1, #slots do hold(changes, slots[i], -r.held[i]) end
end

-- ['settle', epoch, reservation, due, last, events, id, now, forgotten, checks, amounts, told or null, ttl], slots, digest, usage, body
moves.settle = { texts = 4, make = function(m, texts)
  local key, due, last, events, id, nowMs, checks, amounts, ttl = m[3], m[4], m[5], m[6], m[7], m[8], m[10], m[11], m[13]
  local r = reservation(key)
  if r.state == 'V' then return 'already_voided' end
  if r.state == 'S' then return r.digest == texts[2] and 'already_settled' or 'differs' end
  if r.state == 'none' and m[9] == 1 then return 'quarantined' end
  local open = r.state == 'O'
  local slots
  if open then
    slots = heldSlots(r, texts[1], admissionSlots(checks), m[12])
    if not slots then return 'again\n' .. r.slots end
  end
  local booked = r.booked
  local drawn, overruns, changes = {}, {}, {}
  for c = 1, #checks do
    local check = checks[c]
    local settled, pending = useOf(check)
    local ceiling = drawnCeiling(check)
    draw(changes, drawn, overruns, slotOf(check, check[3]), settled, pending, ceiling[2], ceiling[3], check[10], check[9],
      amounts[c] - (booked and booked[c] or 0), open and r.held[c] or 0)
  end
  if open then freed(changes, r, slots) end
  mayAll(changes)
  typeIs(due, 'zset')
  typeIs(events, 'stream')
  nextEventId(last, events, nowMs)
  make(changes)
  keep(key, { state = 'S', digest = texts[2] }, ttl)
  if open then onceWritten('ZREM', KEYS[plain + due], id) end
  append(last, events, nowMs, {
    id = id, kind = booked and 'late' or 'usage', correction = booked and r.corrections + 1 or 0, body = texts[4], usage = texts[3], booked = booked and r.bookedUsage,
    drawn = drawn, overruns = overruns,
  })
  local outcome = booked and 'settled_late' or open and 'settled' or 'settled_unheld'
  return outcome .. '\n[' .. concat(drawn, ',') .. ']\n[' .. concat(overruns, ',') .. ']\n' .. standingOf(checks)
end }

-- ['void', epoch, reservation, due, id, forgotten, own or null, told or null, ttl], slots
moves.void = { texts = 1, make = function(m, texts)
  local key, due = m[3], m[4]
  local r = reservation(key)
  -- What has been expired has left an event: it is too late to say that it never was.
  if r.state == 'E' or (r.state == 'O' and r.booked) then return 'expired' end
  if r.state == 'V' then return 'already_voided' end
  if r.state == 'S' then return 'already_settled' end
  -- Too old for a tombstone, there is nothing to wait for.
  if r.state == 'none' and m[6] == 1 then return 'voided' end
  local changes = {}
  if r.state == 'O' then
    local slots = heldSlots(r, texts[1], m[7], m[8])
    if not slots then return 'again\n' .. r.slots end
    freed(changes, r, slots)
    mayAll(changes)
    typeIs(due, 'zset')
    make(changes)
    onceWritten('ZREM', KEYS[plain + due], m[5])
  end
  keep(key, { state = 'V' }, m[9])
  return 'voided'
end }

-- ['expire', epoch, reservation, due, last, events, id, now, checkpoint or null, lines, ttl], lines
-- lines: { slot, buckets, ttl, beyond?, alongside? } of each line, read from the reservation by the caller a moment ago; the text proves that they are still the same.
moves.expire = { texts = 1, make = function(m, texts)
  local key, due, last, events, id, nowMs, checkpoint, lines, ttl = m[3], m[4], m[5], m[6], m[7], m[8], m[9], m[10], m[11]
  local r = reservation(key)
  if r.state ~= 'O' then return 'unknown' end
  if checkpoint ~= cjson.null and (checkpoint ~= r.checkpoint or r.deadline > nowMs) then return 'not_due' end
  if r.lines ~= texts[1] then return 'again' end
  if decode(r.skeleton).seat == true then
    -- A seat is nothing that was used: it ends without an event.
    local changes, slots = {}, {}
    for i = 1, #lines do slots[i] = lines[i][1] end
    freed(changes, r, slots)
    mayAll(changes)
    typeIs(due, 'zset')
    make(changes)
    keep(key, { state = 'V' }, ttl)
    onceWritten('ZREM', KEYS[plain + due], id)
    return 'freed'
  end
  local amounts = r.counted or r.booked
  local usage = r.counted and r.countedUsage or r.booked and r.bookedUsage or ''
  if not amounts then
    amounts = {}
    for i = 1, #lines do amounts[i] = 0 end
  end
  local drawn, overruns, changes, slots = {}, {}, {}, {}
  for i = 1, #lines do
    local line = lines[i]
    slots[i] = line[1]
    draw(changes, drawn, overruns, line[1], get(line[1]), get(line[1] + 1), line[2], line[4], line[5], line[3], amounts[i] - (r.booked and r.booked[i] or 0), r.held[i])
  end
  freed(changes, r, slots)
  mayAll(changes)
  typeIs(due, 'zset')
  typeIs(events, 'stream')
  nextEventId(last, events, nowMs)
  make(changes)
  local again = r.booked ~= nil
  local corrections = again and r.corrections + 1 or 0
  keep(key, {
    state = 'E', home = r.home, u = r.u, deadline = r.deadline, checkpoint = r.checkpoint, held = r.held, countedUsage = '', booked = amounts, bookedUsage = usage,
    corrections = corrections, slots = r.slots, lines = r.lines, skeleton = r.skeleton,
  }, ttl)
  onceWritten('ZREM', KEYS[plain + due], id)
  append(last, events, nowMs, {
    id = id, kind = again and 'late' or 'expired', correction = corrections, body = r.skeleton, usage = usage, booked = again and r.bookedUsage,
    drawn = drawn, overruns = overruns,
  })
  return 'expired'
end }

return run()
