"""Submits so many jobs at so many at a time by NATS alone, and prints how they ended and how long it took.

Arguments: the state directory, the type, the parameters as JSON, the number, how many at a time.
"""

import asyncio
import json
import sys
import time
from collections import Counter

import nats


async def main(state, kind, params, count, width):
    connect = json.load(open(f"{state}/connect.json"))
    client = await nats.connect(
        connect["nats_url"], user_credentials=connect["nats_creds"], inbox_prefix=connect["nats_inbox_prefix"])
    waiting, ended, turns = {}, [], asyncio.Semaphore(width)

    async def on_result(message):
        result = json.loads(message.data)
        ended.append((result["job_id"], result["status"], result["instance"]))
        if (job := waiting.pop(result["job_id"], None)) is not None:
            job.set_result(None)

    await client.subscribe("mmn.jobs.result.*", cb=on_result)
    await client.flush()
    latencies = []

    async def one(number):
        async with turns:
            began, job = time.monotonic(), f"job-{time.time_ns()}-{number}"
            done = waiting[job] = asyncio.get_running_loop().create_future()
            body = {"v": 1, "job_id": job, "type": kind, "target": f"t{number}", "params": params, "deadline_ms": 60000}
            # What the server cannot take now is tried again, as its answer says.
            while True:
                reply = await client.request("mmn.jobs.submit", json.dumps(body).encode(), timeout=10)
                reply = json.loads(reply.data)
                if reply["status"] == 202:
                    break
                assert reply["error"]["retryable"], reply
                await asyncio.sleep(reply["error"].get("retry_after_ms", 100) / 1e3)
            await asyncio.wait_for(done, 60)
            latencies.append(time.monotonic() - began)

    began = time.monotonic()
    await asyncio.gather(*(one(number) for number in range(count)))
    took = time.monotonic() - began
    # A second result of any job would come now.
    await asyncio.sleep(0.5)
    latencies.sort()
    print(json.dumps({
        "seconds": took,
        "results": len(ended),
        "jobs": len({job for job, _, _ in ended}),
        "status": Counter(status for _, status, _ in ended),
        "instances": Counter(instance for _, _, instance in ended),
        "p50_ms": latencies[len(latencies) // 2] * 1e3,
        "p99_ms": latencies[int(len(latencies) * 0.99)] * 1e3,
    }))


state, kind, params, count, width = sys.argv[1:]
asyncio.run(main(state, kind, json.loads(params), int(count), int(width)))
