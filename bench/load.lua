-- wrk's script: logs in with the header in a file, since a command line is everybody's to read; prints figures as JSON.
-- %N% in a body is another number each time, so that each request writes something new.
local count = 0

function init(args)
    local file = assert(io.open(args[1]))
    wrk.headers["Authorization"] = file:read("*l")
    file:close()
    if args[2] then
        file = assert(io.open(args[2]))
        wrk.method, wrk.body, wrk.headers["Content-Type"] = "POST", file:read("*a"), args[3]
        file:close()
        math.randomseed(os.time())
        count = math.random(1, 1000) * 1000000
        if wrk.body:find("%N%", 1, true) then
            request = function()
                count = count + 1
                return wrk.format(nil, nil, nil, (wrk.body:gsub("%%N%%", tostring(count))))
            end
        end
    end
end

function done(summary, latency, requests)
    local errors = summary.errors
    io.write(string.format(
        '{"p50": %f, "p99": %f, "requests": %d, "seconds": %f, "failed": %d}\n',
        latency:percentile(50) / 1000, latency:percentile(99) / 1000, summary.requests, summary.duration / 1e6,
        errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
