-- The leader gives a waiting job to a node.
-- 3 epoch, 4 r, 5 node, 6 incarnation, 7 token, 8 placement (signed), 9 event for the client (signed)
local r, node = ARGV[4], ARGV[5]
if redis.call('GET', prefix .. 'epoch') ~= ARGV[3] then
    return 'stale'
end
if redis.call('HGET', job_key(r), 'state') ~= 'waiting' then
    redis.call('LREM', wait_queue, 1, r)
    return 'not_waiting'
end
if redis.call('GET', prefix .. 'node:' .. node .. ':owner') ~= ARGV[6] then
    return 'no_node'
end
if (redis.call('GET', only('string', prefix .. 'node:' .. node .. ':want')) or 'up') ~= 'up' then -- the leader has not seen it yet
    return 'no_node'
end
redis.call('LREM', wait_queue, 1, r)
redis.call('HSET', job_key(r), 'state', 'placed', 'node', node, 'incarnation', ARGV[6], 'token', ARGV[7], 'placement', ARGV[8], 'since', now())
redis.call('HDEL', job_key(r), 'announced')
redis.call('HINCRBY', job_key(r), 'attempt', 1)
redis.call('HSET', only('hash', node_jobs(node)), r, ARGV[7])
if redis.call('EXISTS', 'rq:job:' .. r) == 1 then
    redis.call('HSET', 'rq:job:' .. r, 'origin', string.sub(rq_node(node), 10))
end
redis.call('SADD', 'rq:queues', rq_node(node))
redis.call('RPUSH', only('list', rq_node(node)), r)
tell_client(redis.call('HGET', job_key(r), 'client'), ARGV[9])
audit('place', r, node)
return 'placed'
