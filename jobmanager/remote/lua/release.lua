-- Give up a name, if it is still held. 3 the key of its lock, 4 who holds it
if redis.call('GET', ARGV[3]) == ARGV[4] then
    return redis.call('DEL', ARGV[3])
end
return 0
