"""
What Redis must do in one step, in its own language. Every key of a script has the same hash tag: one cluster node.

Each notes its KEYS and ARGV. Scripts never loop over more than what has aged since the last minute.
"""

from __future__ import annotations

from typing import Final

from ._codec import EVENTS_KEPT
from ._windows import KEEP_S, SWEEP_S, TIERS

# The whole trail may hold ten rollouts' worth: each rollout's own is complete whatever the others do.
_APPEND: Final = f"""
local function append(all, own, event)
    redis.call('LPUSH', all, event)
    redis.call('LTRIM', all, 0, {10 * EVENTS_KEPT - 1})
    redis.call('LPUSH', own, event)
    redis.call('LTRIM', own, 0, {EVENTS_KEPT - 1})
end
"""

# KEYS: rollouts, events, the rollout's events, the lease, tokens.
# ARGV: name, expected revision or "", revision, record, event, epoch, and perhaps the lease's name, holder, token.
# Answers nothing, or {revision in place or "", its last event or ""}, or {"lease"} where that is lost.
# One that was carried out before is not a lost race: its own event, which has a nonce, is the last of the trail.
WRITE: Final = (
    _APPEND
    + """
local there = redis.call('HGET', KEYS[1], 'v:' .. ARGV[1]) or ''
if there ~= ARGV[2] then
    local last = redis.call('LINDEX', KEYS[3], 0) or ''
    if there == ARGV[3] and last == ARGV[5] then return false end
    return {there, last}
end
if ARGV[7] and (redis.call('GET', KEYS[4]) ~= ARGV[8] or redis.call('HGET', KEYS[5], ARGV[7]) ~= ARGV[9]) then
    return {'lease'}
end
redis.call('HSETNX', KEYS[1], 'generation', ARGV[6])
redis.call('HINCRBY', KEYS[1], 'generation', 1)
redis.call('HSET', KEYS[1], 'v:' .. ARGV[1], ARGV[3], 'r:' .. ARGV[1], ARGV[4])
append(KEYS[2], KEYS[3], ARGV[5])
return false
"""
)

# KEYS: events, the rollout's events. ARGV: event.
LOG: Final = (
    _APPEND
    + """
for _, last in ipairs(redis.call('LRANGE', KEYS[1], 0, 15)) do
    if last == ARGV[1] then return false end
end
append(KEYS[1], KEYS[2], ARGV[1])
return false
"""
)

# KEYS: index of workers, the worker. ARGV: worker's id, prefix of the keys of workers.
JOIN: Final = """
for _, id in ipairs(redis.call('SMEMBERS', KEYS[1])) do
    if redis.call('EXISTS', ARGV[2] .. id) == 0 then redis.call('SREM', KEYS[1], id) end
end
redis.call('SADD', KEYS[1], ARGV[1])
return false
"""

# KEYS: index of workers. ARGV: prefix of their keys. Answers {{seconds, µs}, worker, its ms to live, worker, …}.
WORKERS: Final = """
local found = {redis.call('TIME')}
for _, id in ipairs(redis.call('SMEMBERS', KEYS[1])) do
    local text = redis.call('GET', ARGV[1] .. id)
    if text then
        found[#found + 1] = text
        found[#found + 1] = redis.call('PTTL', ARGV[1] .. id)
    end
end
return found
"""

# KEYS: any. Answers {seconds, µs}.
TIME: Final = "return redis.call('TIME')"

# What place() of _windows.py says, in Lua; both are held to it by the contract.
_PLACE: Final = """
local function place(window, now)
    if window < now - tonumber(%(keep)d) then return nil end
    for _, tier in ipairs({%(tiers)s}) do
        local begin = window - window %% tier[1]
        if begin + tier[1] <= now - tier[2] then return begin end
    end
    return window
end
local function key(begin) return string.format('%%s%%d', ARGV[1], begin) end
local function sum(begin, numbers)
    for i = 1, #numbers, 2 do
        local text = numbers[i + 1]
        local there = redis.call('HGET', key(begin), numbers[i])
        if there then
            local total = cjson.decode(there)
            for name, n in pairs(cjson.decode(text)) do total[name] = (total[name] or 0) + n end
            text = cjson.encode(total)
        end
        redis.call('HSET', key(begin), numbers[i], text)
    end
    redis.call('ZADD', KEYS[1], begin, string.format('%%d', begin))
    redis.call('EXPIRE', key(begin), %(expire)d)
end
"""

# KEYS: index of windows, time of the last sweep, the worker's sequence.
# ARGV: prefix of the keys of windows, window, sequence, seconds that a sequence is kept, series, its numbers as JSON, …
ADD_COUNTS: Final = (
    _PLACE
    + """
local before = tonumber(redis.call('GET', KEYS[3]) or '-1')
if tonumber(ARGV[3]) <= before then return 0 end
redis.call('SET', KEYS[3], ARGV[3], 'EX', ARGV[4])
local now = tonumber(redis.call('TIME')[1])
local begin = place(tonumber(ARGV[2]), now)
if begin then
    local numbers = {}
    for i = 5, #ARGV do numbers[#numbers + 1] = ARGV[i] end
    sum(begin, numbers)
end
local swept = tonumber(redis.call('GET', KEYS[2]) or '0')
if math.abs(now - swept) < %(sweep)d then return 1 end
redis.call('SET', KEYS[2], now)
for _, text in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - %(youngest)d)) do
    local old = tonumber(text)
    local new = place(old, now)
    if new ~= old then
        local numbers = redis.call('HGETALL', key(old))
        redis.call('DEL', key(old))
        redis.call('ZREM', KEYS[1], text)
        if new and #numbers > 0 then sum(new, numbers) end
    end
end
return 1
"""
) % {
    "keep": KEEP_S,
    "tiers": ", ".join(f"{{{width}, {age}}}" for width, age in TIERS),
    "expire": KEEP_S + TIERS[0][0],
    "sweep": SWEEP_S,
    "youngest": TIERS[-1][1],
}

# KEYS: index of windows. ARGV: prefix of the keys of windows, first second.
# Answers {window, {series, its numbers as JSON, …}, …}.
COUNTS: Final = """
local found = {}
for _, text in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], ARGV[2], '+inf')) do
    found[#found + 1] = text
    found[#found + 1] = redis.call('HGETALL', ARGV[1] .. text)
end
return found
"""

# KEYS: the lease, tokens. ARGV: name, holder, ms. Answers the token, or nothing while somebody else holds it.
# A token begins at the clock's µs, so that it also grows when Redis has forgotten the one before.
ACQUIRE: Final = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[2] then return false end
local token = redis.call('HGET', KEYS[2], ARGV[1])
if not holder or not token then
    local time = redis.call('TIME')
    local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
    token = string.format('%.0f', math.max(tonumber(token or '0') + 1, now))
    redis.call('HSET', KEYS[2], ARGV[1], token)
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return token
"""

# KEYS: notes, the lease, tokens. ARGV: name, notes, and perhaps the lease's name, holder, token.
# Answers nothing, or "lease" where that is lost.
KEEP: Final = """
if ARGV[3] and (redis.call('GET', KEYS[2]) ~= ARGV[4] or redis.call('HGET', KEYS[3], ARGV[3]) ~= ARGV[5]) then
    return 'lease'
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return false
"""

# KEYS: the lease. ARGV: holder.
RELEASE: Final = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return false
"""
