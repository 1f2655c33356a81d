"""Submits one job again and again, in one of two phases, and prints what was answered and what passed on the wire.

Arguments: the state directory, `first` or `again`, the job's id, and for `again` the queue entry as `first` printed it.
"""

import asyncio
import json
import sys
import time

from wire import Wire, until


async def main(state, phase, job, entry="null"):
    wire = await Wire().open(state)
    seen = {"tasks": 0, "entry": json.loads(entry)}

    async def on_task(message):
        seen["tasks"] += json.loads(message.data)["job_id"] == job

    async def on_entry(message):
        seen["entry"] = json.loads(message.data)

    for subject in ("mmn.jobs.do.local.faulty", "mmn.jobs.at.local.*"):
        await wire.server.subscribe(subject, cb=on_task)
    await wire.server.subscribe(f"mmn.jobs.q.faulty.local.{job}", cb=on_entry)
    await wire.server.flush()
    body = {
        "v": 1, "job_id": job, "type": "faulty", "target": "x",
        "params": {"mode": "delay", "delay_ms": 300}, "deadline_ms": 30_000}
    if phase == "first":
        replies = await asyncio.gather(*(wire.submit(body) for _ in range(3)))
        await wire.ended(job)
        replies.append(await wire.submit(body))
    else:
        replies = [await wire.submit(body)]
        # The queue entry once more, under an id that the stream does not remember.
        subject = f"mmn.jobs.q.faulty.local.{job}"
        ack = await wire.ask(subject, seen["entry"], headers={"Nats-Msg-Id": f"late-{time.time_ns()}"})
        assert "error" not in ack, ack
    conflict = await wire.submit({**body, "target": "y"})

    async def settled():
        return True if (await wire.stream("MMN_JOBS_faulty"))[0] == 0 else None

    await until(settled)
    # Whatever runs now would be told within this time, and more.
    other = {**body, "job_id": f"{job}-{phase}", "params": {"mode": "delay", "delay_ms": 400}}
    await wire.submit(other)
    await wire.ended(other["job_id"])
    stored = await wire.ask("$JS.API.STREAM.INFO.MMN_RESULTS", {"subjects_filter": f"mmn.jobs.result.{job}"})
    print(json.dumps({
        **seen,
        "replies": replies,
        "conflict": conflict,
        "heard": len(wire.results.get(job, [])),
        "stored": stored["state"].get("subjects", {}),
        "get": await wire.api(f"/api/v1/jobs/{job}"),
    }))


asyncio.run(main(*sys.argv[1:]))
