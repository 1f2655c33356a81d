"""Submits a job with a traceparent, and prints the result's status and its own traceparent."""

import asyncio
import json
import sys

import nats


async def main(state, traceparent, target):
    connect = json.load(open(f"{state}/connect.json"))
    client = await nats.connect(
        connect["nats_url"],
        user_credentials=connect["nats_creds"],
        inbox_prefix=connect["nats_inbox_prefix"],
    )
    results = await client.subscribe("mmn.jobs.result.*")
    await client.flush()
    job = json.dumps({"v": 1, "type": "echo", "target": target}).encode()
    answer = await client.request("mmn.jobs.submit", job, timeout=5, headers={"traceparent": traceparent})
    accepted = json.loads(answer.data)
    assert accepted["status"] == 202, accepted
    while True:
        message = await results.next_msg(timeout=20)
        result = json.loads(message.data)
        if result["job_id"] == accepted["job_id"]:
            break
    print(json.dumps({"status": result["status"], "traceparent": message.headers.get("traceparent")}))
    await client.close()


asyncio.run(main(*sys.argv[1:]))
