-- A job ends.
-- 3 epoch (empty: it is a node or a client that says so), 4 r, 5 token (empty: only while it waits), 6 client, 7 job id,
-- 8 result (signed), 9 outcome, 10 TTL, 11 who says so, 12 attempt of the placement, then the hashes of
-- blobs that must be there
local r = ARGV[4]
if ARGV[3] ~= '' and redis.call('GET', prefix .. 'epoch') ~= ARGV[3] then
    return 'stale'
end
local known = redis.call('HMGET', job_key(r), 'state', 'token')
if known[1] == 'done' then -- the same placement says it again when the answer was lost
    return (ARGV[5] ~= '' and known[2] == ARGV[5]) and 'done' or 'late'
end
if ARGV[5] == '' then
    if known[1] ~= 'waiting' then
        return 'late'
    end
elseif known[1] and known[2] ~= ARGV[5] and not has_fallen_back(r, ARGV[12]) then
    return 'late'
end
for i = 13, #ARGV do -- Redis may have lost its data since they were put there
    if redis.call('HEXISTS', prefix .. 'blobs:' .. r, ARGV[i]) == 0 then
        return 'missing'
    end
end
done(r, ARGV[6], ARGV[7], ARGV[8], ARGV[9], ARGV[10], ARGV[11])
if ARGV[3] ~= '' then -- whatever its node says now is late
    redis.call('HSET', job_key(r), 'token', '')
end
return 'done'
