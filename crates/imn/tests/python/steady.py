"""Submits jobs by NATS alone, so many a second, until a file appears; then prints how each of them ended.

Arguments: the state directory, the type, the parameters as JSON, jobs per second, their deadline in ms, the file. What is
told of an outcome is the name of its first field. Results of jobs of other people are counted as well.
"""

import asyncio
import json
import os
import sys
import time
from collections import Counter

import nats


async def main(state, kind, params, rate, deadline_ms, stop):
    connect = json.load(open(f"{state}/connect.json"))
    client = await nats.connect(
        connect["nats_url"], user_credentials=connect["nats_creds"], inbox_prefix=connect["nats_inbox_prefix"])
    began, waiting, results = {}, {}, []

    async def on_result(message):
        result = json.loads(message.data)
        outcome = sorted(result.get("outcome") or {"none": 0})[0]
        results.append((result["job_id"], time.time(), result["status"], result.get("instance"), outcome))
        if (job := waiting.get(result["job_id"])) is not None and not job.done():
            job.set_result(None)

    await client.subscribe("mmn.jobs.result.*", cb=on_result)
    await client.flush()

    async def one(number):
        job = f"steady-{time.time_ns()}-{number}"
        began[job] = time.time()
        done = waiting[job] = asyncio.get_running_loop().create_future()
        body = {"v": 1, "job_id": job, "type": kind, "target": f"t{number}", "params": params, "deadline_ms": deadline_ms}
        reply = await client.request("mmn.jobs.submit", json.dumps(body).encode(), timeout=30)
        reply = json.loads(reply.data)
        assert reply["status"] == 202, reply
        await asyncio.wait_for(done, deadline_ms / 1e3 + 60)

    jobs, next_turn = [], time.monotonic()
    while not os.path.exists(stop):
        jobs.append(asyncio.create_task(one(len(jobs))))
        next_turn += 1 / rate
        await asyncio.sleep(max(0, next_turn - time.monotonic()))
    await asyncio.gather(*jobs)
    # A second result of any job would come now.
    await asyncio.sleep(0.5)
    own = [result for result in results if result[0] in began]
    print(json.dumps({
        "jobs": len(began),
        "results": len(own),
        "ended": len({job for job, *_ in own}),
        "status": Counter(status for _, _, status, _, _ in own),
        "failed_by": Counter(instance for _, _, status, instance, _ in own if status != "succeeded"),
        "instances": Counter(instance for _, _, _, instance, _ in own),
        "outcomes": Counter(outcome for _, _, status, _, outcome in own if status == "succeeded"),
        "max_ms": max((at - began[job]) * 1e3 for job, at, *_ in own),
        "p99_ms": sorted((at - began[job]) * 1e3 for job, at, *_ in own)[int(len(own) * 0.99)],
        "when": [(at, outcome) for _, at, _, _, outcome in own],
        "others": Counter(job for job, *_ in results if job not in began),
    }))


state, kind, params, rate, deadline_ms, stop = sys.argv[1:]
asyncio.run(main(state, kind, json.loads(params), float(rate), int(deadline_ms), stop))
