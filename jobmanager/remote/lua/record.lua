-- A job's record for its node, without fields that are longer than anything of ours.
-- 3 r, 4 longest in bytes, then names of fields
local found, longest = redis.call('HMGET', only('hash', job_key(ARGV[3])), unpack(ARGV, 5)), tonumber(ARGV[4])
for i, value in ipairs(found) do
    if value and #value > longest then
        found[i] = false
    end
end
return found
