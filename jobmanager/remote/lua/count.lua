-- A node has started a program of its job once more. 3 r, 4 token, 5 how often it was started by now, on all nodes
if redis.call('HGET', job_key(ARGV[3]), 'token') == ARGV[4] then
    count_runs(ARGV[3], ARGV[5])
end
