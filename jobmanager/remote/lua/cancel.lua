-- A client kills its job: one that waits ends at once, with the result that came along; else its node is told.
-- 3 r, 4 command (signed), 5 result (signed), 6 TTL
local r = ARGV[3]
local known = redis.call('HMGET', job_key(r), 'state', 'client', 'job_id', 'node')
if not known[1] or known[1] == 'done' then
    return 'gone'
end
if known[1] == 'waiting' then
    done(r, known[2], known[3], ARGV[5], 'killed', ARGV[6], 'kill')
    return 'ended'
end
redis.call('HSET', job_key(r), 'cancel', ARGV[4])
local inbox = prefix .. 'node:' .. known[4] .. ':inbox'
add(inbox, 'MAXLEN', '~', 10000, '*', 'e', ARGV[4])
redis.call('EXPIRE', inbox, 86400)
audit('kill', r, known[4])
return 'asked'
