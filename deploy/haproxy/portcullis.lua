-- Asks Portcullis about each request: `http-request lua.portcullis` in haproxy.cfg.
--
-- HAProxy 2.6 or newer; nothing but what it has itself (core.httpclient). The request passes only when Portcullis said
-- so. Its own answer goes to the client; no answer is 503, unless PORTCULLIS_OPEN below is set.

local URL = os.getenv("PORTCULLIS_URL") or "http://127.0.0.1:8181/forward-auth"
-- Milliseconds until no answer is taken for none.
local TIMEOUT = 250
-- "1" lets requests pass while Portcullis is gone or hangs. What it denies is denied all the same.
local OPEN = os.getenv("PORTCULLIS_OPEN") == "1"
-- Headers of the client's that Portcullis reads: the token's, and those of `decide.headers`.
local READ = { "authorization", "x-api-key", "dpop" }
-- Headers of its answer that the service gets, in place of the client's. Add those that your policy sets.
local GIVE = { "x-portcullis-subject", "x-user" }

local function deny(txn, status, headers, body)
	local reply = txn:reply()
	reply:set_status(status)
	for name, values in pairs(headers) do
		for _, value in pairs(values) do
			reply:add_header(name, value)
		end
	end
	reply:set_body(body or "")
	txn:done(reply)
end

core.register_action("portcullis", { "http-req" }, function(txn)
	local from = txn.http:req_get_headers()
	local ask = {
		["x-forwarded-method"] = { txn.sf:method() },
		["x-forwarded-uri"] = { txn.sf:pathq() },
		["x-forwarded-for"] = { txn.sf:src() },
	}
	-- Every value is sent on: Portcullis refuses two of one name, since others could read the other one.
	for _, name in ipairs(READ) do
		local values = from[name]
		if values then
			ask[name] = {}
			for _, value in pairs(values) do
				table.insert(ask[name], value)
			end
		end
	end
	if from["host"] then
		ask["x-forwarded-host"] = { from["host"][0] }
	end
	local asked, answer = pcall(function()
		return core.httpclient():get({ url = URL, headers = ask, timeout = TIMEOUT })
	end)
	local status = asked and answer and tonumber(answer.status) or 0
	for _, name in ipairs(GIVE) do
		txn.http:req_del_header(name)
	end
	if status >= 200 and status < 300 then
		for _, name in ipairs(GIVE) do
			for _, value in pairs(answer.headers[name] or {}) do
				txn.http:req_add_header(name, value)
			end
		end
		return
	end
	-- HAProxy makes an answer of its own where there is none: Portcullis's has a reason.
	if status >= 400 and answer.headers["x-portcullis-reason"] then
		local give = {}
		for name, values in pairs(answer.headers) do
			if name ~= "content-length" and name ~= "connection" and name ~= "transfer-encoding" and name ~= "date" then
				give[name] = values
			end
		end
		return deny(txn, status, give, answer.body)
	end
	if OPEN then
		return
	end
	deny(txn, 503, { ["content-type"] = { "text/plain" } }, "no decision\n")
end, 0)
