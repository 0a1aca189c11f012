-- A node gives a job back that it has not run.
-- 3 r, 4 token, 5 reason, 6 "1": it is not to get it again
local r = ARGV[3]
local job = job_key(r)
local known = redis.call('HMGET', job, 'state', 'token', 'node', 'excluded')
if (known[1] ~= 'placed' and known[1] ~= 'running') or known[2] ~= ARGV[4] then
    return 0
end
if known[1] == 'running' then
    redis.call('HINCRBY', job, 'runs', -1)
end
if ARGV[6] == '1' then
    local excluded = split(known[4] or '[]', {})
    table.insert(excluded, known[3])
    redis.call('HSET', job, 'excluded', cjson.encode(excluded), 'reason', string.sub(ARGV[5], 1, 500))
end
leave_node(r)
wait(r)
hint('back', r, known[3])
audit('back', r, known[3])
return 1
