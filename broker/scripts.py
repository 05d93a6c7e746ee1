"""The atomic steps of the protocol, as Redis runs them.

A lane is two streams: prompts (with a consumer group, whose pending list holds the leases) and groups (whose bytes lie
at keys of their own). Completing moves a ticket from one to the other in one step, so that every position that was
issued is in exactly one of: prompts, groups, dead, again, dropped, learned from.

Redis may come back a second older than it was (its append-only file is flushed every second). Every script therefore
leaves a state from which the parties can go on, whatever they remember of the lost second.
"""

# A learner above the last known epoch is one whose beginning was lost with Redis's last second.
FENCE = """
local epoch = tonumber(redis.call('GET', KEYS[1]) or '0')
if tonumber(ARGV[1]) < epoch then return redis.error_reply('FENCED ' .. epoch) end
if tonumber(ARGV[1]) > epoch then redis.call('SET', KEYS[1], ARGV[1]) end
"""

# KEYS epoch; ARGV epoch that the new one must exceed → the new epoch: the time in Unix milliseconds, or above the last.
# By the time, so that two learners never bear the same epoch where Redis forgot that the first had begun.
LEAD = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local epoch = math.max(tonumber(redis.call('GET', KEYS[1]) or '0') + 1, tonumber(ARGV[1]) + 1, now)
redis.call('SET', KEYS[1], string.format('%.0f', epoch))
return epoch
"""

# KEYS epoch, prompts, issued; ARGV epoch, positions issued so far, then position and body of each → positions issued.
# Nothing is done if that many have not been issued, or more (a retried call).
ISSUE = (
    FENCE
    + """
local issued = tonumber(redis.call('GET', KEYS[3]) or '0')
if issued ~= tonumber(ARGV[2]) or #ARGV < 4 then return issued end
for i = 3, #ARGV, 2 do redis.call('XADD', KEYS[2], '*', 'id', ARGV[i], 'body', ARGV[i + 1]) end
issued = tonumber(ARGV[#ARGV - 1]) + 1
redis.call('SET', KEYS[3], issued)
return issued
"""
)

EACH_ID = """
local function each_id(stream, visit)
  local from = '-'
  while true do
    local found = redis.call('XRANGE', stream, from, '+', 'COUNT', 256)
    for _, entry in ipairs(found) do
      for i = 1, #entry[2], 2 do
        if entry[2][i] == 'id' then visit(entry[2][i + 1]) end
      end
    end
    if #found < 256 then return end
    from = '(' .. found[#found][1]
  end
end
"""

# KEYS epoch, prompts, groups; ARGV epoch, then position and body of each → how many were issued: all that are in neither.
REISSUE = (
    FENCE
    + EACH_ID
    + """
local there, issued = {}, 0
for i = 2, 3 do each_id(KEYS[i], function(id) there[id] = true end) end
for i = 2, #ARGV, 2 do
  if not there[ARGV[i]] then
    redis.call('XADD', KEYS[2], '*', 'id', ARGV[i], 'body', ARGV[i + 1])
    issued = issued + 1
  end
end
return issued
"""
)

# KEYS prompts, groups, dead, again, dropped → the positions that are in one of them, as strings.
POSITIONS = (
    EACH_ID
    + """
local held = redis.call('SMEMBERS', KEYS[5])
for i = 1, 4 do each_id(KEYS[i], function(id) held[#held + 1] = id end) end
return held
"""
)

# Entries as tables of their known fields, filed anew elsewhere.
FILING = """
local function fields_of(stream, entry)
  local found = redis.call('XRANGE', stream, entry, entry)[1]
  if not found then return nil end
  local fields = {id = ''}
  for i = 1, #found[2], 2 do fields[found[2][i]] = found[2][i + 1] end
  return fields
end
local function file(stream, fields, names)
  local flat = {}
  for _, name in ipairs(names) do
    if fields[name] then flat[#flat + 1], flat[#flat + 2] = name, fields[name] end
  end
  redis.call('XADD', stream, '*', unpack(flat))
end
"""

# KEYS prompts, groups, body; ARGV consumer group, entry, prompt id, claim, size → 1, or 0 if someone else completed it.
# The body was put there to expire. That it does so no longer means that this very call has been done before.
COMPLETE = (
    FILING
    + """
local left = redis.call('PTTL', KEYS[3])
if left == -2 then return redis.error_reply('NOBODY ' .. KEYS[3]) end
if left == -1 then return 1 end
local prompt = fields_of(KEYS[1], ARGV[2])
if not prompt or prompt.id ~= ARGV[3] then
  redis.call('UNLINK', KEYS[3])
  return 0
end
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
redis.call('XDEL', KEYS[1], ARGV[2])
redis.call('XADD', KEYS[2], '*', 'id', ARGV[3], 'claim', ARGV[4], 'size', ARGV[5])
redis.call('PERSIST', KEYS[3])
return 1
"""
)

# KEYS prompts; ARGV consumer group, worker, entries… → the entries that this worker no longer holds.
RENEW = """
local lost = {}
for i = 3, #ARGV do
  local held = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1)
  if held[1] and held[1][2] == ARGV[2] then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i], 'JUSTID')
  else
    lost[#lost + 1] = ARGV[i]
  end
end
return lost
"""

# KEYS prompts; ARGV consumer group, worker, entry, attempts to record → 1, or 0 if this worker does not hold it.
# The entry is left with a consumer that nobody is, idle for long enough that the next one to ask may claim it.
RELEASE = """
local held = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1)
if not held[1] or held[1][2] ~= ARGV[2] then return 0 end
redis.call('XCLAIM', KEYS[1], ARGV[1], 'released', 0, ARGV[3], 'IDLE', 86400000, 'RETRYCOUNT', ARGV[4], 'JUSTID')
return 1
"""

BURYING = (
    FILING
    + """
local function bury(stream, dead, entry, from, cause, attempts, worker)
  local fields = fields_of(stream, entry)
  if not fields then return 0 end
  redis.call('XDEL', stream, entry)
  fields.from, fields.cause, fields.attempts, fields.worker = from, cause, attempts, worker
  file(dead, fields, {'id', 'body', 'claim', 'size', 'from', 'cause', 'attempts', 'worker'})
  return 1
end
"""
)

# KEYS stream, dead; ARGV consumer group, entry, where it comes from, cause, attempts, worker → 1, or 0 if it is gone.
# Groups have no consumers: there, nothing is acknowledged.
BURY = (
    BURYING
    + """
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
return bury(KEYS[1], KEYS[2], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6])
"""
)

# KEYS epoch, stream, dead; ARGV epoch, entry, where it comes from, cause, attempts, worker → 1, or 0 if it is gone.
REJECT = (
    FENCE
    + BURYING
    + """
return bury(KEYS[2], KEYS[3], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6])
"""
)

# KEYS dead, again; ARGV entry → 1, or 0 if it is gone.
RETRY = (
    FILING
    + """
local fields = fields_of(KEYS[1], ARGV[1])
if not fields then return 0 end
redis.call('XDEL', KEYS[1], ARGV[1])
file(KEYS[2], fields, {'id', 'body', 'claim', 'size', 'from'})
return 1
"""
)

# KEYS epoch, again, prompts, groups; ARGV epoch, count, letters that wait → how many went back to where they came from.
# Nothing is done unless that many wait (a retried call).
RESUME = (
    FENCE
    + FILING
    + """
if redis.call('XLEN', KEYS[2]) ~= tonumber(ARGV[3]) then return 0 end
local found = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', ARGV[2])
for _, entry in ipairs(found) do
  local fields = fields_of(KEYS[2], entry[1])
  redis.call('XDEL', KEYS[2], entry[1])
  file(fields.from == 'groups' and KEYS[4] or KEYS[3], fields, {'id', 'body', 'claim', 'size'})
end
return #found
"""
)

# KEYS dead, dropped, body; ARGV entry, position or an empty string → 1, or 0 if it is gone.
DROP = """
if redis.call('XDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
if ARGV[2] ~= '' then redis.call('SADD', KEYS[2], ARGV[2]) end
redis.call('UNLINK', KEYS[3])
return 1
"""

# KEYS epoch, groups, bodies…; ARGV epoch, entries… → how many were still there.
ACKNOWLEDGE = (
    FENCE
    + """
local gone = 0
for i = 2, #ARGV do
  if redis.call('XDEL', KEYS[2], ARGV[i]) == 1 then
    redis.call('UNLINK', KEYS[i + 1])
    gone = gone + 1
  end
end
return gone
"""
)

# KEYS epoch, weights; ARGV epoch, version, folder name, digest, kept → 1; refuses a version that is not above the highest.
# The very announcement that is there already (a retried call) is passed over, and so is one that bears no version.
PUBLISH = (
    FENCE
    + """
local highest = -1
for _, entry in ipairs(redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 100)) do
  local said = {}
  for i = 1, #entry[2], 2 do said[entry[2][i]] = entry[2][i + 1] end
  if said.version == ARGV[2] and said.name == ARGV[3] and said.digest == ARGV[4] then return 1 end
  if said.version and string.match(said.version, '^%d+$') and #said.version <= 9 then
    highest = math.max(highest, tonumber(said.version))
  end
end
if highest >= tonumber(ARGV[2]) then return redis.error_reply('VERSION ' .. highest) end
redis.call('XADD', KEYS[2], '*', 'version', ARGV[2], 'name', ARGV[3], 'digest', ARGV[4])
redis.call('XTRIM', KEYS[2], 'MAXLEN', ARGV[5])
return 1
"""
)

# KEYS epoch, key; ARGV epoch, value → 1; the key has the value.
TELL = (
    FENCE
    + """
redis.call('SET', KEYS[2], ARGV[2])
return 1
"""
)

# KEYS roll; ARGV name, member as JSON → the server's time in milliseconds.
BEAT = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], ARGV[1], now .. ' ' .. ARGV[2])
return now
"""

# KEYS roll, prompts of every lane; ARGV consumer group, names… → how many consumers were deleted: all that nobody on the roll
# is, and that hold nothing. What a deleted consumer held would be lost; one that reads again is there again.
STRIKE = """
for i = 2, #ARGV do redis.call('HDEL', KEYS[1], ARGV[i]) end
local deleted = 0
for i = 2, #KEYS do
  local consumers = redis.pcall('XINFO', 'CONSUMERS', KEYS[i], ARGV[1])
  if consumers.err then consumers = {} end
  for _, described in ipairs(consumers) do
    local told = {}
    for j = 1, #described, 2 do told[described[j]] = described[j + 1] end
    if told.pending == 0 and redis.call('HEXISTS', KEYS[1], told.name) == 0 then
      redis.call('XGROUP', 'DELCONSUMER', KEYS[i], ARGV[1], told.name)
      deleted = deleted + 1
    end
  end
end
return deleted
"""
