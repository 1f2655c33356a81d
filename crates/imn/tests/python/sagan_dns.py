"""Reads Atlas results of a name by ripe.atlas.sagan. Arguments: file with the results, the resolver's address:port."""

import json
import sys

from ripe.atlas.sagan import DnsResult, Result

_, results, resolver = sys.argv
(raw,) = json.load(open(results))
result = Result.get(json.dumps(raw), on_error=Result.ACTION_FAIL, on_malformation=Result.ACTION_FAIL)
assert isinstance(result, DnsResult)
assert f"{raw['dst_addr']}:{raw['dst_port']}" == resolver
(response,) = result.responses
assert (response.protocol, response.destination_address, response.af) == ("UDP", "127.0.0.1", 4)
assert 0 < response.response_time < 10_000 and response.response_size == raw["result"]["size"] > 80
answer = response.abuf
assert answer.header.return_code == "NOERROR" and answer.header.aa and answer.header.id == raw["result"]["ID"]
assert answer.questions[0].name == "imn.test." and answer.questions[0].type == "TXT"
assert answer.answers[0].data == ["v=spf1 -all", "second string"], answer.answers[0].data
assert len(answer.answers) == raw["result"]["ANCOUNT"] == 1
