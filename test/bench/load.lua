-- Purpose: the requests of `npm run bench`, for wrk. Environment: BODY (JSON), KEY (caller's key).
-- Counts answers by status and prints them as one JSON line, so that a benchmark of errors is noticed.
wrk.method = "POST"
wrk.path = "/v1/chat/completions"
wrk.body = os.getenv("BODY")
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer " .. (os.getenv("KEY") or "none")

local threads = {}
function setup(thread) table.insert(threads, thread) end
function init() ok = 0; refused = 0; other = 0 end
function response(status)
  if status == 200 then ok = ok + 1 elseif status == 429 then refused = refused + 1 else other = other + 1 end
end
function done(summary, latency)
  local o, r, x = 0, 0, 0
  for _, t in ipairs(threads) do o = o + t:get("ok"); r = r + t:get("refused"); x = x + t:get("other") end
  io.write(string.format('\n{"ok":%d,"refused":%d,"other":%d,"p50_us":%d,"p99_us":%d,"errors":%d}\n', o, r, x,
    latency:percentile(50), latency:percentile(99), summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout))
end
