"""Looks at what the registry keeps in NATS, and does to it what somebody with the keys of the server could do.

Arguments: the state directory, a command, and what it takes:
  objects            what a client of object stores finds
  kept               the list of the agent `local`
  put FILE           another list in its place, and a poke
  tamper OBJECT      other bytes in the place of an executable
  denied             what the credentials of the agent itself do not allow
"""

import asyncio
import base64
import hashlib
import json
import sys

import nats

LIST = "$KV.registry.agent.local"


async def connect(state, who, prefix, **more):
    connect = json.load(open(f"{state}/connect.json"))
    return await nats.connect(
        connect["nats_url"], user_credentials=f"{state}/keys/{who}.creds", inbox_prefix=prefix, **more)


async def objects(client):
    store = await client.jetstream().object_store("modules")
    found = []
    for info in await store.list():
        data = (await store.get(info.name)).data
        found.append({"name": info.name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()})
    return found


async def kept(client):
    message = await client.jetstream().get_last_msg("KV_registry", LIST)
    headers = {name: value for name, value in message.headers.items() if not name.startswith("Nats-")}
    return {"data": base64.b64encode(message.data).decode(), "headers": headers, "list": json.loads(message.data)}


async def put(client, path):
    saved = json.load(open(path))
    await client.jetstream().publish(LIST, base64.b64decode(saved["data"]), headers=saved["headers"])
    poke = json.dumps({"v": 1, "op": "registry", "revision": 0}).encode()
    return json.loads((await client.request("mmn.agents.ctl.local", poke, timeout=5)).data)


async def tamper(client, name):
    jetstream, subject = client.jetstream(), f"$O.modules.C.{name}"
    data = bytearray((await jetstream.get_last_msg("OBJ_modules", subject)).data)
    data[-1] ^= 1
    await jetstream.purge_stream("OBJ_modules", subject=subject)
    await jetstream.publish(subject, bytes(data))
    return {"bytes": len(data)}


async def denied(state):
    refusals = []

    async def on_error(error):
        refusals.append(str(error))

    client = await connect(state, "agent-local", "_INBOX_agent.local", error_cb=on_error)
    for subject in (
        "$JS.API.DIRECT.GET.KV_registry.$KV.registry.agent.other",
        "$JS.API.DIRECT.GET.KV_registry.$KV.registry.index",
        "$JS.API.DIRECT.GET.KV_registry",
        LIST,
        "$O.modules.C.mine",
        "$JS.API.STREAM.PURGE.OBJ_modules",
        "$JS.API.CONSUMER.CREATE.OBJ_modules",
    ):
        await client.publish(subject, b"{}")
    await client.flush()
    # What it may: its own list, and executables.
    own = await client.request(f"$JS.API.DIRECT.GET.KV_registry.{LIST}", b"", timeout=5)
    chunk = json.dumps({"seq": 1, "next_by_subj": "$O.modules.C.>"}).encode()
    chunk = await client.request("$JS.API.DIRECT.GET.OBJ_modules", chunk, timeout=5)
    await client.close()
    return {"refusals": refusals, "own": len(own.data), "chunk": len(chunk.data)}


async def main(state, command, *args):
    if command == "denied":
        return await denied(state)
    client = await connect(state, "server", "_INBOX_server")
    done = await {"objects": objects, "kept": kept, "put": put, "tamper": tamper}[command](client, *args)
    await client.close()
    return done


print(json.dumps(asyncio.run(main(*sys.argv[1:]))))
