-- A job is accepted: all of it, or nothing. The same R again is no error.
-- 3 r, 4 job id, 5 client, 6 header, 7 body, 8 most that may wait, 9 TTL of blobs and of the client's table,
-- 10 hashes of blobs (JSON), then names and values of RQ's own record
local r, job_id, client = ARGV[3], ARGV[4], ARGV[5]
only('list', wait_queue)
only('hash', prefix .. 'ids')
only('hash', prefix .. 'client:' .. client .. ':open')
only('hash', 'rq:job:' .. r)
if redis.call('EXISTS', only('hash', job_key(r))) == 1 then
    return {'accepted'}
end
local other = redis.call('HGET', prefix .. 'ids', job_id)
if other and redis.call('EXISTS', job_key(other)) == 1 then
    return {'duplicate', redis.call('HGET', job_key(other), 'client') or ''}
end
local waiting = redis.call('LLEN', wait_queue)
if waiting >= tonumber(ARGV[8]) then
    return {'full', tostring(waiting)}
end
local missing = {}
for _, name in ipairs(cjson.decode(ARGV[10])) do
    local own = string.match(name, '^' .. r .. ':(%x+)$') -- of this job alone; else of its task
    local is_there
    if own then
        is_there = redis.call('HEXISTS', prefix .. 'blobs:' .. r, own)
        redis.call('EXPIRE', prefix .. 'blobs:' .. r, ARGV[9])
    else
        is_there = redis.call('EXPIRE', prefix .. 'blob:' .. name, ARGV[9])
    end
    if is_there == 0 then
        table.insert(missing, name)
    end
end
if #missing > 0 then
    return {'missing', cjson.encode(missing)}
end
redis.call('HSET', job_key(r), 'attempt', 0, 'runs', 0, 'accepted', now(), 'client', client, 'job_id', job_id, 'header', ARGV[6], 'body', ARGV[7])
redis.call('HSET', 'rq:job:' .. r, unpack(ARGV, 11))
wait(r)
redis.call('HSET', prefix .. 'ids', job_id, r)
local open = prefix .. 'client:' .. client .. ':open'
redis.call('HSET', open, r, job_id)
redis.call('EXPIRE', open, ARGV[9])
hint('new', r)
return {'accepted'}
