"""The atomic steps of the protocol, as Redis runs them.

A lane is two streams: prompts (with a consumer group, whose pending list holds the leases) and groups. Completing moves
a ticket from one to the other in one step, so that every prompt is in exactly one of: prompts, groups, dead, learned.
"""

FENCE = """
local epoch = redis.call('GET', KEYS[1])
if epoch ~= ARGV[1] then return redis.error_reply('FENCED ' .. tostring(epoch)) end
"""

# KEYS issued, prompts, groups, dead → their numbers.
DEPTH = """
local found = {tonumber(redis.call('GET', KEYS[1]) or '0')}
for i = 2, 4 do found[i] = redis.call('XLEN', KEYS[i]) end
return found
"""

# KEYS epoch, prompts, issued; ARGV epoch, position of the first body, bodies… → positions issued so far.
# A position below `issued` was issued before (a retried call), and is passed over.
ISSUE = (
    FENCE
    + """
local issued = tonumber(redis.call('GET', KEYS[3]) or '0')
local first = tonumber(ARGV[2])
if first > issued then return issued end
for i = 3, #ARGV do
  local position = first + i - 3
  if position >= issued then redis.call('XADD', KEYS[2], '*', 'id', position, 'body', ARGV[i]) end
end
issued = math.max(issued, first + #ARGV - 2)
redis.call('SET', KEYS[3], issued)
return issued
"""
)

# KEYS epoch, issued; ARGV epoch, position → the positions issued so far, at least `position`.
SKIP_TO = (
    FENCE
    + """
local issued = math.max(tonumber(redis.call('GET', KEYS[2]) or '0'), tonumber(ARGV[2]))
redis.call('SET', KEYS[2], issued)
return issued
"""
)

# KEYS prompts, groups; ARGV consumer group, entry, prompt id, body → 1, or 0 if the prompt is no longer there.
COMPLETE = """
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
if redis.call('XDEL', KEYS[1], ARGV[2]) == 0 then return 0 end
redis.call('XADD', KEYS[2], '*', 'id', ARGV[3], 'body', ARGV[4])
return 1
"""

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

# KEYS stream of prompts or of groups (which has no consumers, so that nothing is acknowledged), dead; ARGV consumer group, entry, prompt id, body, cause, attempts, worker → 1, or 0 if it is gone.
BURY = """
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
if redis.call('XDEL', KEYS[1], ARGV[2]) == 0 then return 0 end
redis.call('XADD', KEYS[2], '*', 'id', ARGV[3], 'body', ARGV[4], 'cause', ARGV[5], 'attempts', ARGV[6], 'worker', ARGV[7])
return 1
"""

# KEYS epoch, groups; ARGV epoch, entries… → how many were still there.
ACKNOWLEDGE = (
    FENCE
    + """
local gone = 0
for i = 2, #ARGV do gone = gone + redis.call('XDEL', KEYS[2], ARGV[i]) end
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
