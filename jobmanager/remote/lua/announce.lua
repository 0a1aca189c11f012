-- Redis lost data: a client says again which job it has, and where it saw it last.
-- 3 r, 4 job id, 5 client, 6 header, 7 body, 8 state, 9 node, 10 incarnation, 11 token, 12 runs, 13 TTL, then RQ's own record
local function at_node(r, state, node, incarnation, token)
    redis.call('HSET', job_key(r), 'state', state, 'since', now(), 'node', node, 'incarnation', incarnation, 'token', token)
    redis.call('HSET', node_jobs(node), r, token)
    redis.call('SADD', prefix .. 'nodes', node)
    hint('changed', r)
end

local r, job_id, client, state, node = ARGV[3], ARGV[4], ARGV[5], ARGV[8], ARGV[9]
local job = job_key(r)
only('hash', prefix .. 'ids')
only('hash', prefix .. 'client:' .. client .. ':open')
only('hash', 'rq:job:' .. r)
local known = redis.call('HGET', only('hash', job), 'state')
if known == 'done' then
    return 'done'
end
redis.call('HSET', prefix .. 'ids', job_id, r)
local open = prefix .. 'client:' .. client .. ':open'
redis.call('HSET', open, r, job_id)
redis.call('EXPIRE', open, ARGV[13])
local is_seen = state ~= 'waiting' and node ~= ''
if known and redis.call('HEXISTS', job, 'header') == 1 then
    if not (is_seen and known == 'waiting' and redis.call('HGET', job, 'attempt') == '0') then
        return 'there'
    end
    redis.call('LREM', wait_queue, 1, r) -- it was placed: its record fell back
    at_node(r, state, node, ARGV[10], ARGV[11])
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
if is_seen then
    at_node(r, state, node, ARGV[10], ARGV[11])
else
    wait(r)
    redis.call('HSET', job, 'announced', 1)
    hint('new', r)
end
return 'made'
