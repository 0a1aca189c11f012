-- Redis lost data: a client says again which job it has, and where it saw it last.
-- 3 r, 4 job id, 5 client, 6 header, 7 body, 8 state, 9 node, 10 incarnation, 11 token, 12 runs, 13 TTL, then RQ's own record
local r, job_id, client, state, node = ARGV[3], ARGV[4], ARGV[5], ARGV[8], ARGV[9]
local job = job_key(r)
local known = redis.call('HGET', job, 'state')
if known == 'done' then
    return 'done'
end
redis.call('HSET', prefix .. 'ids', job_id, r)
local open = prefix .. 'client:' .. client .. ':open'
redis.call('HSET', open, r, job_id)
redis.call('EXPIRE', open, ARGV[13])
if known and redis.call('HEXISTS', job, 'header') == 1 then
    return 'there'
end
redis.call('HSET', job, 'accepted', now(), 'client', client, 'job_id', job_id, 'header', ARGV[6], 'body', ARGV[7])
redis.call('PERSIST', job)
redis.call('HSET', 'rq:job:' .. r, unpack(ARGV, 14))
if known then -- its node was first
    hint('changed', r)
    return 'joined'
end
redis.call('HSET', job, 'attempt', 0, 'runs', ARGV[12])
if state == 'waiting' or node == '' then
    wait(r)
    redis.call('HSET', job, 'announced', 1)
    hint('new', r)
else
    redis.call('HSET', job, 'state', state, 'since', now(), 'node', node, 'incarnation', ARGV[10], 'token', ARGV[11])
    redis.call('HSET', node_jobs(node), r, ARGV[11])
    redis.call('SADD', prefix .. 'nodes', node)
    hint('changed', r)
end
return 'made'
