"""Reads an AsyncAPI document by somebody else's model of AsyncAPI 3.0, and prints what is in it.

Argument: the file.
"""

import json
import sys

import yaml
from asyncapi3.models import AsyncAPI3

document = yaml.safe_load(open(sys.argv[1]))
read = AsyncAPI3.model_validate(document)
written = read.model_dump(by_alias=True, exclude_none=True, mode="json")
print(json.dumps({
    "asyncapi": read.asyncapi,
    "addresses": sorted(channel["address"] for channel in written["channels"].values() if channel.get("address")),
    "operations": len(written["operations"]),
    "messages": sorted(written["components"]["messages"]),
}))
