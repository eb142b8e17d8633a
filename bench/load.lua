-- wrk's script: logs in with the header in a file, since a command line is everybody's to read; prints figures as JSON.
function init(args)
    local file = assert(io.open(args[1]))
    wrk.headers["Authorization"] = file:read("*l")
    file:close()
    if args[2] then
        file = assert(io.open(args[2]))
        wrk.method, wrk.body, wrk.headers["Content-Type"] = "POST", file:read("*a"), args[3]
        file:close()
    end
end

function done(summary, latency, requests)
    local errors = summary.errors
    io.write(string.format(
        '{"p50": %f, "p99": %f, "requests": %d, "seconds": %f, "failed": %d}\n',
        latency:percentile(50) / 1000, latency:percentile(99) / 1000, summary.requests, summary.duration / 1e6,
        errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
