"""Publishes what is no batch to the stream of rounds until the stream takes no more.

Arguments: the state directory. Prints how many it took, and what it said then.
"""

import asyncio
import json
import sys

import nats
from nats.js.errors import APIError


async def main(state):
    url = json.load(open(f"{state}/connect.json"))["nats_url"]
    client = await nats.connect(url, user_credentials=f"{state}/keys/server.creds", inbox_prefix="_INBOX_server")
    taken, jetstream = 0, client.jetstream()
    while True:
        try:
            # Small ones at the end, so that nothing fits in between.
            await jetstream.publish("mmn.ingest.rows.0.local.icmp", b"x" * (50_000 if taken < 15 else 500), timeout=5)
            taken += 1
        except APIError as error:
            print(json.dumps({"taken": taken, "code": error.err_code, "description": error.description}))
            break
    await client.close()


asyncio.run(main(sys.argv[1]))
