-- A node's sign of life. It says what it holds, and hears what it is to do about it.
-- 3 node, 4 incarnation, 5 report (signed), 6 TTL of its name in ms, then R, token, runs and attempt of each job that it holds
local node, incarnation = ARGV[3], ARGV[4]
local owner = prefix .. 'node:' .. node .. ':owner'
local holder = redis.call('GET', only('string', owner))
if holder and holder ~= incarnation then
    return {0}
end
only('hash', prefix .. 'node:' .. node)
only('hash', node_jobs(node))
only('string', prefix .. 'node:' .. node .. ':want')
only('set', prefix .. 'nodes')
only('list', wait_queue)
redis.call('SET', owner, incarnation, 'PX', ARGV[6])
redis.call('HSET', prefix .. 'node:' .. node, 'report', ARGV[5], 'incarnation', incarnation)
redis.call('HINCRBY', prefix .. 'node:' .. node, 'beats', 1)
redis.call('EXPIRE', prefix .. 'node:' .. node, 86400)
redis.call('SADD', prefix .. 'nodes', node)
local held, lost, cancels, unheld = {}, {}, {}, {}
for i = 7, #ARGV, 4 do
    local r, token, job = ARGV[i], ARGV[i + 1], only('hash', job_key(ARGV[i]))
    held[r] = true
    local known = redis.call('HMGET', job, 'state', 'node', 'token', 'cancel')
    if not known[1] or has_fallen_back(r, ARGV[i + 3]) then -- Redis lost data, and nobody else has it
        redis.call('LREM', wait_queue, 1, r)
        leave_node(r)
        redis.call('HSET', job, 'state', 'running', 'node', node, 'incarnation', incarnation, 'token', token, 'runs', ARGV[i + 2], 'since', now())
        redis.call('HDEL', job, 'announced')
        if not known[1] then
            redis.call('EXPIRE', job, 86400)
        end
        redis.call('HSET', job, 'attempt', ARGV[i + 3])
        redis.call('HSET', node_jobs(node), r, token)
        hint('changed', r, node)
    elseif known[1] == 'done' or known[2] ~= node or known[3] ~= token then
        table.insert(lost, r)
    else
        if known[1] == 'placed' then -- announced as such; its node has started it
            redis.call('HSET', job, 'state', 'running')
        end
        count_runs(r, ARGV[i + 2])
        if known[4] then
            table.insert(cancels, {r, known[4]})
        end
    end
end
for _, r in ipairs(redis.call('HKEYS', node_jobs(node))) do
    if not held[r] then
        local known = redis.call('HMGET', job_key(r), 'state', 'incarnation', 'node', 'token')
        if known[3] ~= node or not known[1] or known[1] == 'done' then
            redis.call('HDEL', node_jobs(node), r)
        elseif known[2] == incarnation then
            table.insert(unheld, {r, known[1], known[4]})
        end
    end
end
return {1, redis.call('GET', prefix .. 'node:' .. node .. ':want') or 'up', lost, cancels, unheld}
