-- The leader takes a job back from a node that is lost.
-- 3 epoch, 4 r, 5 token, 6 event for the client (signed), 7 in which state the leader saw it
local r = ARGV[4]
if redis.call('GET', prefix .. 'epoch') ~= ARGV[3] then
    return 'stale'
end
local known = redis.call('HMGET', job_key(r), 'state', 'token', 'client')
if (known[1] ~= 'placed' and known[1] ~= 'running') or known[2] ~= ARGV[5] then
    return 'late'
end
if known[1] ~= ARGV[7] then -- its node is not so lost after all: it has just started it
    return 'changed'
end
local node = leave_node(r)
wait(r)
tell_client(known[3], ARGV[6])
audit('requeue', r, node)
return 'waiting'
