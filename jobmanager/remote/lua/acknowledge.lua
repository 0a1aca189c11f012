-- Results were called back. Only the process that has the client's id may say so: to another one they are results of nobody.
-- 3 client, 4 who says so, then entry in the client's stream and R of each
local client = prefix .. 'client:' .. ARGV[3]
if redis.call('GET', client .. ':owner') ~= ARGV[4] then
    return 0
end
for i = 5, #ARGV, 2 do
    redis.call('XDEL', client .. ':results', ARGV[i])
    redis.call('HDEL', client .. ':open', ARGV[i + 1])
    redis.call('UNLINK', prefix .. 'blobs:' .. ARGV[i + 1])
end
return 1
