-- Be the leader, or stay it. The epoch names the leader, too: Redis may have lost the counter.
-- 3 who asks, 4 lease in ms
only('string', prefix .. 'epoch')
local holder = redis.call('GET', only('string', prefix .. 'leader'))
if holder == ARGV[3] then
    redis.call('PEXPIRE', prefix .. 'leader', ARGV[4])
    return redis.call('GET', prefix .. 'epoch')
end
if holder then
    return ''
end
redis.call('SET', prefix .. 'leader', ARGV[3], 'PX', ARGV[4])
local number = redis.pcall('INCR', only('string', prefix .. 'epochs'))
if type(number) == 'table' then -- it was no number
    number = 1
    redis.call('SET', prefix .. 'epochs', number)
end
local epoch = number .. ':' .. ARGV[3]
redis.call('SET', prefix .. 'epoch', epoch)
audit('lead', '', epoch)
return epoch
