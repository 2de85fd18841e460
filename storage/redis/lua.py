"""What happens inside Redis, atomically: the scripts, as texts.

Owns the directory's rules where they must be atomic. The layouts are those of ``records.py``. Every script names its keys
and touches no other; the number of keys is bounded by who calls. Times are Redis' own milliseconds, except the expiry of
tokens, which is compared with the caller's wall clock in seconds as everywhere else.

All writes of a script come after its reads, so a refused first write (-OOM) leaves nothing half done.
"""

from __future__ import annotations

BEAT_S = 0.5
TTL_MS = 2_500
"""A worker whose last beat is older is not heard of."""
GONE_MS = 2_000
"""After that it may still be on its way back."""
UP_MS = 10_000
"""A directory must have been up so long before anybody is dropped for silence."""
GAP_MS = 1_500
"""No beat of anybody for so long: the directory was away, not they."""
CLUSTER_TTL_MS = 60_000
ENDED_TTL_S = 120

MAX_REAPED = 16
"""Per beat. A thousand workers that died at once are gone within seconds."""
MAX_KEPT_DEVICES = 64
"""Records of a user beyond it: disconnected ones are forgotten. Connected ones never are."""

BEAT = f"""
-- KEYS: cluster, alive, ended. ARGV: worker, member, a new generation, the server's run id, channel of news.
-- Returns generation, version, milliseconds that the directory is up; or one word: why not.
local worker, member = ARGV[1], ARGV[2]
local incarnation = member:sub(1, 19)
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local cluster = redis.call('HMGET', KEYS[1], 'generation', 'run', 'version', 'up', 'last', 'w' .. worker)
local generation, version, up = cluster[1], tonumber(cluster[3] or 0), tonumber(cluster[4] or 0)
local known = cluster[6]
local ended = redis.call('HGET', KEYS[3], worker)
if ended and ended >= incarnation then return {{'ended'}} end
local is_new = not generation or cluster[2] ~= ARGV[4]
if not is_new and known and known:sub(1, 19) > incarnation then return {{'later'}} end
if is_new then
  redis.call('DEL', KEYS[1], KEYS[2])
  generation, version, up, known = ARGV[3], 0, now, false
elseif now - tonumber(cluster[5] or 0) > {GAP_MS} then
  up = now
end
local is_changed = known ~= member
if is_changed then version = version + 1 end
redis.call('HSET', KEYS[1], 'generation', generation, 'run', ARGV[4], 'version', version, 'up', up, 'last', now,
  'w' .. worker, member)
if redis.call('ZADD', KEYS[2], now, worker) == 1 and known then
  -- The times of the last beats were lost alone: everybody has been heard of now.
  for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
    if field:match('^w%d+$') then redis.call('ZADD', KEYS[2], now, field:sub(2)) end
  end
end
if now - up >= {UP_MS} then
  local gone = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now - {TTL_MS + GONE_MS}, 'LIMIT', 0, {MAX_REAPED})
  for _, other in ipairs(gone) do
    redis.call('ZREM', KEYS[2], other)
    redis.call('HDEL', KEYS[1], 'w' .. other)
    version = version + 1
    is_changed = true
  end
  if #gone > 0 then redis.call('HSET', KEYS[1], 'version', version) end
end
redis.call('PEXPIRE', KEYS[1], {CLUSTER_TTL_MS})
redis.call('PEXPIRE', KEYS[2], {CLUSTER_TTL_MS})
if is_changed then redis.call('PUBLISH', ARGV[5], version) end
return {{generation, version, now - up}}
"""

ROSTER = """
-- KEYS: cluster, ended. Returns both as flat lists.
return {redis.call('HGETALL', KEYS[1]), redis.call('HGETALL', KEYS[2])}
"""

ENDED = f"""
-- KEYS: cluster, alive, ended. ARGV: worker, incarnation, channel of news.
local worker, incarnation = ARGV[1], ARGV[2]
local known = redis.call('HGET', KEYS[1], 'w' .. worker)
local marked = redis.call('HGET', KEYS[3], worker)
if not marked or marked < incarnation then redis.call('HSET', KEYS[3], worker, incarnation) end
redis.call('EXPIRE', KEYS[3], {ENDED_TTL_S})
if known and known:sub(1, 19) <= incarnation then
  redis.call('HDEL', KEYS[1], 'w' .. worker)
  redis.call('ZREM', KEYS[2], worker)
  redis.call('PUBLISH', ARGV[3], redis.call('HINCRBY', KEYS[1], 'version', 1))
  return 1
end
return 0
"""

DEVICES = f"""
-- KEYS: cluster, then the user's key of each change. ARGV: my stay, prefix of channels, now, seconds that a location is
-- kept, then the changes. Returns for each: outcome and highest session, or '' for an end.
local ZERO = string.rep('0', 19)
local me, channel, now, kept = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local my_worker = me:sub(1, 7)

local function lives(stay)
  local member = redis.call('HGET', KEYS[1], 'w' .. stay:sub(1, 7))
  return member and member:sub(20, 29) == stay:sub(8)
end

local function find(value, device)
  for at = 1, #value, 85 do
    if value:sub(at, at + 18) == device then return at end
  end
end

local function write(key, value, own)
  -- Without the records that have run out; and the longest-lived says how long the key stays.
  local records, left = {{}}, 0
  local count = #value / 85
  for at = 1, #value, 85 do
    local record = value:sub(at, at + 84)
    local rest = tonumber(record:sub(76)) - now
    local is_connected = record:sub(20, 20) == '+'
    if is_connected then rest = math.max(rest, kept) end
    local is_spare = count > {MAX_KEPT_DEVICES} and not is_connected and record:sub(1, 19) ~= own
    if rest > 0 and not is_spare then
      records[#records + 1] = record
      left = math.max(left, rest)
    else
      count = count - 1
    end
  end
  if #records == 0 then redis.call('DEL', key)
  else redis.call('SET', key, table.concat(records), 'EX', string.format('%d', math.min(left, 7776000))) end
end

local function register(key, value, at, change)
  local device, session, resumed = change:sub(2, 20), change:sub(21, 39), change:sub(40, 58)
  local sign, stay, highest, floor, expiry = '-', '', ZERO, ZERO, '0000000000'
  if at then
    sign, stay = value:sub(at + 19, at + 19), value:sub(at + 20, at + 36)
    highest, floor, expiry = value:sub(at + 37, at + 55), value:sub(at + 56, at + 74), value:sub(at + 75, at + 84)
  end
  local is_repeated = session == highest and stay:sub(1, 7) == my_worker
  if not is_repeated then
    if at and tonumber(expiry) <= now and not (sign == '+' and lives(stay)) then highest, floor = ZERO, ZERO end
    if resumed ~= ZERO and resumed < floor then return '2' .. highest end
    if session <= highest then return '1' .. highest end
  end
  local until_s = change:sub(59)
  local record = device .. '+' .. me .. session .. (resumed > floor and resumed or floor)
    .. (until_s > expiry and until_s or expiry)
  if at and record == value:sub(at, at + 84) then
    if redis.call('TTL', key) < kept * 0.6 then redis.call('EXPIRE', key, string.format('%d', kept)) end
    return '0' .. session
  end
  if at then write(key, value:sub(1, at - 1) .. record .. value:sub(at + 85), device)
  else write(key, value .. record, device) end
  if sign == '+' and session ~= highest and highest ~= ZERO then
    redis.call('PUBLISH', channel .. stay:sub(1, 7), key:sub(-19) .. device .. highest .. session)
  end
  return '0' .. session
end

local function unregister(key, value, at, change)
  if at and value:sub(at + 19, at + 26) == '+' .. my_worker and value:sub(at + 37, at + 55) == change:sub(21, 39) then
    write(key, value:sub(1, at + 18) .. '-' .. value:sub(at + 20), '')
  end
  return ''
end

local results = {{}}
for i = 2, #KEYS do
  local key, change = KEYS[i], ARGV[i + 3]
  local value = redis.call('GET', key) or ''
  if #value % 85 ~= 0 then value = '' end
  local at = find(value, change:sub(2, 20))
  if change:sub(1, 1) == 'R' then results[i - 1] = register(key, value, at, change)
  else results[i - 1] = unregister(key, value, at, change) end
end
return results
"""

RATES = """
-- KEYS: one for each bucket. ARGV: tokens a second, burst, then what was spent of each.
-- Returns for each the milliseconds until it is out of its debt; 0: it has none.
local per_s, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local waits = {}
for i, key in ipairs(KEYS) do
  local tokens, at = burst, now
  local known = redis.call('GET', key)
  if known then
    local left, since = known:match('^(%S+) (%d+)$')
    if left then tokens = math.min(burst, tonumber(left) + (now - tonumber(since)) * per_s / 1000) end
  end
  tokens = math.max(tokens - tonumber(ARGV[i + 2]), -burst)
  local full_ms = math.ceil((burst - tokens) / per_s * 1000) + 1000
  redis.call('SET', key, string.format('%.3f %d', tokens, now), 'PX', string.format('%d', full_ms))
  waits[i] = tokens < 0 and math.ceil(-tokens / per_s * 1000) or 0
end
return waits
"""
