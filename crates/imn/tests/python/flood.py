"""Has nats-server store so many messages of 50 KB, if it can. Arguments: the state directory and the number."""

import asyncio
import json
import sys

import nats


async def main(state, count):
    url = json.load(open(f"{state}/connect.json"))["nats_url"]
    client = await nats.connect(url, user_credentials=f"{state}/keys/server.creds", inbox_prefix="_INBOX_server")
    for _ in range(count):
        await client.publish("mmn.dlq.echo.local.nobody", b"x" * 50_000)
    try:
        await client.flush(timeout=3)
    except nats.errors.TimeoutError:
        pass


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
