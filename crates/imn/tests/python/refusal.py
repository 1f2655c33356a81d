"""Submits a job by NATS and expects to be refused in so many words.

Arguments: the state directory, the type, the status, the name of the error, and what its message contains.
"""

import asyncio
import json
import sys

import nats


async def main(state, kind, status, name, words):
    connect = json.load(open(f"{state}/connect.json"))
    client = await nats.connect(
        connect["nats_url"], user_credentials=connect["nats_creds"], inbox_prefix=connect["nats_inbox_prefix"])
    body = {"v": 1, "type": kind, "target": "x", "params": {}}
    answer = await client.request("mmn.jobs.submit", json.dumps(body).encode(), timeout=20)
    reply = json.loads(answer.data)
    error = reply["error"]
    assert (reply["status"], error["code"], error["name"]) == (status, status, name), reply
    assert words in error["message"], reply
    await client.close()


asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], sys.argv[5]))
