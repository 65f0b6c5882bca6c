-- What a dead event is called: `<position> <consumer>` among the dead, which have no order; `<consumer>\0<position>` in their order.

local function deadField(member)
  local consumer, position = string.match(member, '^(.*)%z([^%z]*)$')
  if consumer == '' then return position end
  return (position or '') .. ' ' .. (consumer or member)
end

local function deadMember(field)
  local position, consumer = string.match(field, '^(%S*) (.*)$')
  return (consumer or '') .. '\0' .. (position or field)
end
