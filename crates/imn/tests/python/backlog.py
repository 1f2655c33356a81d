"""More jobs than there are slots for: looks at the queue while they wait, and prints what it saw as JSON.

Arguments: the state directory, the number of jobs, how long each takes in milliseconds, the slots in all.
"""

import asyncio
import json
import sys
import time
from collections import Counter

from wire import Wire, until


async def main(state, count, delay_ms, slots):
    wire = await Wire().open(state)

    def job(name, **more):
        params = {"mode": "delay", "delay_ms": delay_ms}
        return {"v": 1, "job_id": name, "type": "faulty", "target": name, "params": params, "deadline_ms": 180_000, **more}

    run = f"backlog-{time.time_ns()}"

    # The server has heard how long such a job takes.
    async def service_time():
        await wire.submit(job(warm := f"{run}-warm-{time.time_ns()}"))
        await wire.ended(warm)
        detail = await wire.api("/api/v1/modules/faulty")
        known = [one["health"]["ewma_ms"] for one in detail["instances"] if one["health"]]
        return True if known and max(known) >= delay_ms else None

    await until(service_time)
    warm = len(wire.results)
    names = [f"{run}-{number}" for number in range(count)]
    replies = [await wire.submit(job(name)) for name in names]
    # A job that would still wait when its time is over is refused.
    refused = await wire.submit(job(f"{run}-late", deadline_ms=2 * delay_ms))
    samples = []
    while sum(name in wire.results for name in names) < count // 2:
        messages, waiting, in_hand = await wire.stream("MMN_JOBS_faulty")
        summary = (await wire.api("/api/v1/modules/faulty"))["summary"]
        samples.append({
            "messages": messages, "waiting": waiting, "in_hand": in_hand,
            "open": summary["open_tasks"], "parked": summary["queued"]})
        await asyncio.sleep(0.1)
    for name in names:
        await wire.ended(name)

    async def empty():
        return True if (await wire.stream("MMN_JOBS_faulty"))[0] == 0 else None

    # A second result of any job would come before the queue is empty and all is told.
    await until(empty)
    after = (await wire.api("/api/v1/modules/faulty"))["summary"]
    print(json.dumps({
        "accepted": sum(reply["status"] == 202 for reply in replies),
        "refused": refused,
        "samples": samples,
        "results": sum(len(wire.results[name]) for name in names),
        "strangers": len(wire.results) - warm - count,
        "status": Counter(wire.results[name][0]["status"] for name in names),
        "open_after": after["open_tasks"],
    }))


state, *numbers = sys.argv[1:]
asyncio.run(main(state, *map(int, numbers)))
