"""Asking the owners of many chats for heads: one link frame per owner, whatever the number of chats.

Owns the grouping, the retries while owners change, and the order that SYNC rests on: the asking worker is added to the
owner's cached places before a head is named.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import trio

from gateway.chat.actors import Actors
from gateway.chat.heads import HeadEntry, HeadsOk, HeadsWish, read_heads
from gateway.cluster.directory import Location
from gateway.cluster.links import LinkLost, LinkRefused, Links, Reply
from gateway.cluster.locations import Locations
from gateway.cluster.routing import AGAIN_S, PATIENCE_S, Router
from gateway.cluster.slots import NotOwner
from gateway.protocol.errors import Code, ProtocolError
from gateway.protocol.identifiers import ChatId, DeviceId, SessionId, UserId, WorkerId
from storage.api import SlotLost, Store, StoreError

HEADS_OP = 0xB1
GONE_OP = 0xB2


class HeadsCall(msgspec.Struct, array_like=True, gc=False):
    wish: HeadsWish
    session_id: int


class Heads:
    """See the module. ``run`` must be running."""

    def __init__(self, links: Links, router: Router, actors: Actors, locations: Locations, store: Store) -> None:
        self._links = links
        self._router = router
        self._actors = actors
        self._locations = locations
        self._store = store
        self._nursery: trio.Nursery | None = None
        links.register(HEADS_OP, self._on_heads)
        links.register(GONE_OP, self._on_gone)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    async def heads(
        self, device: tuple[int, int], session_id: int, chats: Sequence[tuple[int, bool]]
    ) -> dict[int, HeadEntry]:
        """Heads of these (chat, whether the device has set its record of it itself).

        Raises ProtocolError: MOVED when owners did not settle in time, UNAVAILABLE when a store did not answer.
        """
        found: dict[int, HeadEntry] = {}
        is_set = dict(chats)
        with trio.move_on_after(PATIENCE_S):
            while missing := [ChatId(chat_id) for chat_id in is_set if chat_id not in found]:
                await self._round(device, session_id, {chat_id: is_set[chat_id] for chat_id in missing}, found)
                if len(found) < len(is_set):
                    await trio.sleep(AGAIN_S)
            return found
        raise ProtocolError(Code.MOVED, "the owners of some chats are changing", retry_after_ms=1000)

    async def _round(
        self, device: tuple[int, int], session_id: int, chats: dict[ChatId, bool], found: dict[int, HeadEntry]
    ) -> None:
        try:
            groups = await self._router.by_owner(list(chats))
        except NotOwner:
            return
        async with trio.open_nursery() as nursery:
            for owner, chat_ids in groups.items():
                wish = HeadsWish(*device, [(chat_id, int(chats[chat_id])) for chat_id in chat_ids])
                nursery.start_soon(self._ask, owner, HeadsCall(wish, session_id), found)

    async def _ask(self, owner: WorkerId, call: HeadsCall, found: dict[int, HeadEntry]) -> None:
        try:
            if owner == self._links.me:
                answer = await self._answer(owner, call)
            else:
                payload = await self._links.call(owner, HEADS_OP, msgspec.msgpack.encode(call))
                answer = msgspec.msgpack.decode(payload, type=HeadsOk)
        except (LinkLost, LinkRefused, NotOwner, StoreError):
            return  # asked again in the next round
        found.update((entry.chat_id, entry) for entry in answer.entries)

    async def _answer(self, asker: WorkerId, call: HeadsCall) -> HeadsOk:
        wish = call.wish
        tenures = await self._router.hold([ChatId(chat_id) for chat_id, _ in wish.chats])
        location = Location(DeviceId(wish.device_id), asker, SessionId(call.session_id))
        self._locations.add(UserId(wish.user_id), location)
        by_slot = {tenure.slot: tenure for tenure in tenures}
        try:
            answer = await read_heads(self._actors, self._store, by_slot, wish)
        except SlotLost:
            raise NotOwner(tenures[0].slot, None) from None
        for tenure in tenures:
            if not tenure.is_current:  # a next owner, if there is one, does not send this device anything yet
                raise NotOwner(tenure.slot, None)
        return answer

    # ------------------------------------------------------------------------------------------- other workers

    def _on_heads(self, worker: WorkerId, payload: bytes, reply: Reply | None) -> None:
        assert self._nursery is not None
        assert reply is not None
        self._nursery.start_soon(self._serve, worker, msgspec.msgpack.decode(payload, type=HeadsCall), reply)

    async def _serve(self, worker: WorkerId, call: HeadsCall, reply: Reply) -> None:
        try:
            answer = await self._answer(worker, call)
        except NotOwner:
            reply.refuse(Code.MOVED, "not the owner")
        except StoreError as error:
            reply.refuse(Code.UNAVAILABLE, str(error))
        else:
            reply.reply(msgspec.msgpack.encode(answer))
        self._actors.finish_cycle()

    def tell_gone(self, owner: WorkerId, devices: Sequence[tuple[int, int]]) -> None:
        """Pushes came from ``owner`` for devices that are not here."""
        if owner == self._links.me:
            self._locations.gone(owner, devices)
        else:
            self._links.send(owner, GONE_OP, msgspec.msgpack.encode(list(devices)))

    def _on_gone(self, worker: WorkerId, payload: bytes, reply: Reply | None) -> None:
        self._locations.gone(worker, msgspec.msgpack.decode(payload, type=list[tuple[int, int]]))
