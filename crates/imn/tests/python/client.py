"""A stranger's client: nats-py with what connect.json says, nothing of ours. Prints one JSON object of what it saw."""

import asyncio
import json
import sys

import nats


async def main(state):
    connect = json.load(open(f"{state}/connect.json"))
    client = await nats.connect(
        connect["nats_url"],
        user_credentials=connect["nats_creds"],
        inbox_prefix=connect["nats_inbox_prefix"],
    )
    seen = {}

    results = asyncio.Queue()

    async def on_result(message):
        await results.put((message.subject, json.loads(message.data)))

    await client.subscribe("mmn.jobs.result.*", cb=on_result)
    await client.flush()

    async def ask(subject, body):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return json.loads((await client.request(subject, data, timeout=5)).data)

    submitted = await ask(
        "mmn.jobs.submit",
        {"v": 1, "type": "icmp", "target": "127.0.0.1", "params": {"count": 3, "interval": "10ms"}},
    )
    seen["submit"] = submitted
    subject, result = await asyncio.wait_for(results.get(), 10)
    seen["result_subject"] = subject
    seen["result"] = result
    seen["get"] = await ask(f"mmn.jobs.get.{submitted['job_id']}", b"")

    # The same id and body is the same job, another body is refused.
    job = {"v": 1, "job_id": "again-1", "type": "echo", "target": "x", "params": {"n": 1}}
    seen["first"] = await ask("mmn.jobs.submit", job)
    seen["second"] = await ask("mmn.jobs.submit", job)
    seen["conflict"] = await ask("mmn.jobs.submit", {**job, "target": "y"})
    await asyncio.wait_for(results.get(), 10)

    seen["garbage"] = await ask("mmn.jobs.submit", b"\xff\x00 not a message")
    seen["major"] = await ask("mmn.jobs.submit", {"v": 9, "type": "echo", "target": "x"})
    seen["unknown_type"] = await ask("mmn.jobs.submit", {"v": 1, "type": "nonsense", "target": "x"})
    seen["over_long"] = await ask("mmn.jobs.submit", {"v": 1, "type": "echo", "target": "x" * 100_000})

    out, error = asyncio.Queue(), asyncio.Queue()

    def into(queue):
        async def put(message):
            await queue.put(json.loads(message.data))

        return put

    await client.subscribe("agent.local.out", cb=into(out))
    await client.subscribe("agent.local.error", cb=into(error))
    await client.flush()

    async def send(body):
        await client.publish("agent.local.in", body if isinstance(body, bytes) else json.dumps(body).encode())

    await send({"target": "127.0.0.1", "count": 4, "request_id": "test-123"})
    seen["out"] = await asyncio.wait_for(out.get(), 10)
    await send(b"{garbage")
    seen["error_garbage"] = await asyncio.wait_for(error.get(), 10)
    await send({"target": "127.0.0.1", "count": 0, "request_id": "zero"})
    seen["error_count"] = await asyncio.wait_for(error.get(), 10)
    heartbeats = await client.subscribe("heartbeat.local")
    seen["heartbeat"] = json.loads((await heartbeats.next_msg(timeout=5)).data)
    await client.close()
    print(json.dumps(seen))


asyncio.run(main(sys.argv[1]))
