"""A bot that repeats what it hears: ``python echo_bot.py HOST PORT TOKEN``."""

from __future__ import annotations

import hashlib
import sys

import trio

import parley


async def echo(client: parley.Client) -> None:
    async for event in client.events():
        match event:
            case parley.MessageReceived(message) if message.kind == parley.Kind.CONTENT:
                origin = f"{message.chat_id}/{message.seq}".encode()
                reply_id = hashlib.blake2b(origin, digest_size=16).digest()
                await client.send(message.chat_id, f"I heard: {message.text}", client_msg_id=reply_id)
            case parley.StayedAway(_, reason):
                sys.exit(f"another session took over: {reason}")


async def main(host: str, port: int, token: str) -> None:
    store = parley.FileClientStore("echo_bot.state")
    async with parley.connect(host, port, token, store=store) as client:
        await echo(client)


if __name__ == "__main__":
    _, address, number, jwt = sys.argv
    trio.run(main, address, int(number), jwt)
