-- A node is about to run a job. From here on it is never run a second time, unless its retries allow that.
-- 3 r, 4 node, 5 incarnation, 6 token, 7 event for the client (signed)
local r, node = ARGV[3], ARGV[4]
local job = job_key(r)
redis.call('LREM', rq_node(node) .. ':intermediate', 1, r)
local known = redis.call('HMGET', job, 'state', 'node', 'incarnation', 'token')
if known[1] ~= 'placed' or known[2] ~= node or known[3] ~= ARGV[5] or known[4] ~= ARGV[6] then
    return 'gone'
end
if redis.call('HEXISTS', job, 'cancel') == 1 then
    return 'cancelled'
end
redis.call('HSET', job, 'state', 'running')
redis.call('HINCRBY', job, 'runs', 1)
if redis.call('EXISTS', 'rq:job:' .. r) == 1 then
    redis.call('HSET', 'rq:job:' .. r, 'status', 'started')
end
tell_client(redis.call('HGET', job, 'client'), ARGV[7])
hint('running', r, node)
return 'run'
