-- What several scripts do. It is put before each of them.
-- All keys of a namespace begin with ARGV[1], "jm:NAMESPACE:"; ARGV[2] is the RQ queue of waiting jobs.
local prefix, wait_queue = ARGV[1], ARGV[2]

local function job_key(r)
    return prefix .. 'job:' .. r
end

local function node_jobs(node)
    return prefix .. 'node:' .. node .. ':jobs'
end

local function rq_node(node)
    return 'rq:queue:jm.' .. string.sub(prefix, 4, -2) .. '.node.' .. node
end

-- What stands there and is of another type than ours goes: one such write must not stop everybody for ever.
local function only(kind, key)
    local found = redis.call('TYPE', key)['ok']
    if found ~= kind and found ~= 'none' then
        redis.call('UNLINK', key)
    end
    return key
end

-- The same for a stream; also for one to which somebody has added the last id that there is.
local function add(key, ...)
    local answer = redis.pcall('XADD', key, ...)
    if type(answer) == 'table' and answer['err'] then
        if string.find(answer['err'], 'WRONGTYPE') or string.find(answer['err'], 'exhausted') or string.find(answer['err'], 'equal or smaller') then
            redis.call('UNLINK', key)
        end
        redis.call('XADD', key, ...)
    end
end

local function hint(kind, r, more)
    add(prefix .. 'inbox', 'MAXLEN', '~', 10000, '*', 'kind', kind, 'r', r, 'more', more or '')
end

local function audit(what, r, who)
    add(prefix .. 'audit', 'MAXLEN', '~', 100000, '*', 'what', what, 'r', r, 'who', who or '')
end

local function tell_client(client, event)
    if event ~= '' and client and client ~= '' then
        local key = prefix .. 'client:' .. client .. ':events'
        add(key, 'MAXLEN', '~', 10000, '*', 'e', event)
        redis.call('EXPIRE', key, 3600)
    end
end

-- Redis' own clock, in seconds since 1970.
local function now()
    local time = redis.call('TIME')
    return string.format('%d.%06d', time[1], time[2])
end

-- A program of a job was started so often, at least.
local function count_runs(r, runs)
    if tonumber(runs) > tonumber(redis.call('HGET', job_key(r), 'runs') or '0') then
        redis.call('HSET', job_key(r), 'runs', runs)
    end
end

-- A job leaves the node that has it.
local function leave_node(r)
    local node = redis.call('HGET', job_key(r), 'node')
    if node and node ~= '' then
        redis.call('HDEL', node_jobs(node), r)
        redis.call('LREM', rq_node(node), 1, r)
        redis.call('LREM', rq_node(node) .. ':intermediate', 1, r)
    end
    return node
end

-- Whether Redis has lost what came after: a job waits because a client has announced it so, or its record is older than a
-- placement that a node has.
local function has_fallen_back(r, attempt)
    local known = redis.call('HMGET', job_key(r), 'state', 'announced', 'attempt')
    if known[1] == 'done' then
        return false
    end
    return (known[1] == 'waiting' and known[2]) or tonumber(known[3] or 0) < tonumber(attempt)
end

-- A job waits (again).
local function wait(r)
    redis.call('HSET', job_key(r), 'state', 'waiting', 'token', '', 'node', '', 'incarnation', '', 'placement', '', 'since', now())
    redis.call('RPUSH', only('list', wait_queue), r)
    redis.call('SADD', 'rq:queues', wait_queue)
    if redis.call('EXISTS', 'rq:job:' .. r) == 1 then
        redis.call('HSET', 'rq:job:' .. r, 'status', 'queued', 'origin', string.sub(wait_queue, 10))
    end
end

-- A job has its one result: its client is told, what belonged to it is gone, and its record says so for a while.
local function done(r, client, job_id, envelope, outcome, ttl_s, who)
    local job = job_key(r)
    local node = leave_node(r)
    if redis.call('HGET', job, 'state') == 'waiting' then
        redis.call('LREM', wait_queue, 1, r)
    end
    if redis.call('HGET', prefix .. 'ids', job_id) == r then
        redis.call('HDEL', prefix .. 'ids', job_id)
    end
    redis.call('HDEL', job, 'header', 'body', 'placement', 'cancel', 'excluded')
    redis.call('HSET', job, 'state', 'done', 'outcome', outcome, 'client', client, 'job_id', job_id)
    redis.call('EXPIRE', job, ttl_s)
    if redis.call('EXISTS', 'rq:job:' .. r) == 1 then
        redis.call('HSET', 'rq:job:' .. r, 'status', outcome == 'crash' and 'failed' or 'finished')
        redis.call('EXPIRE', 'rq:job:' .. r, ttl_s)
    end
    local results = prefix .. 'client:' .. client .. ':results'
    add(results, '*', 'r', r, 'e', envelope)
    redis.call('EXPIRE', results, ttl_s)
    redis.call('EXPIRE', prefix .. 'client:' .. client .. ':open', ttl_s)
    hint('done', r, node)
    audit('finish ' .. outcome, r, who)
end

local function split(text, into)
    for _, each in ipairs(cjson.decode(text)) do
        table.insert(into, each)
    end
    return into
end
