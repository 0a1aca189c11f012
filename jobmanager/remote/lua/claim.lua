-- Take a name, or keep it. 3 the key of its lock, 4 who asks, 5 lease in ms
local holder = redis.call('GET', only('string', ARGV[3]))
if holder and holder ~= ARGV[4] then
    return holder
end
redis.call('SET', ARGV[3], ARGV[4], 'PX', ARGV[5])
return ''
