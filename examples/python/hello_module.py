#!/usr/bin/env python3
"""`hello` greets its target after `params.delay_ms`: a whole measurement module, over the SDK in imn_module.py.

For a module of your own copy this file, and replace what a job takes and how it is done.
"""
import asyncio
import time

from imn_module import Module, invalid


class Hello(Module):
    version = "1.0.0"
    params_schema = {
        "type": "object",
        "properties": {"delay_ms": {"type": "integer", "minimum": 0}},
        "additionalProperties": False,
    }

    def configure(self, config):
        greeting = config.get("greeting", "hello")
        if not isinstance(greeting, str):
            raise invalid("config.greeting", "use a text")
        self.greeting = greeting

    def check(self, job):
        delay = job.params.get("delay_ms", 0)
        if type(delay) is not int or delay < 0:
            raise invalid("params.delay_ms", "use whole milliseconds, 0 or more")

    async def run(self, job):
        began = time.monotonic()
        await job.text(f"about to greet {job.target}")
        await asyncio.sleep(job.params.get("delay_ms", 0) / 1000)
        waited_ms = (time.monotonic() - began) * 1000
        return {"target": job.target, "greeting": f"{self.greeting} {job.target}", "waited_ms": round(waited_ms, 3)}


if __name__ == "__main__":
    Hello().main()
