"""Interleavings that chance hardly ever finds, each written down: what a rule prevents, step by step.

Owns the scripts, and which rules each is about. A script runs with every rule in place, and nothing may break; without its
rules something must. Where a script names two rules, each of them alone prevents what it shows, and both have to be taken
out; then it runs without each of them too, and nothing may break.

Numbers of workers are in the order of their epochs. Replicas are 0, 1 and 2.
"""

from __future__ import annotations

from typing import NamedTuple

import trio

from gateway.protocol.messages import ChatChange, History, Op
from tests.simulation.scene import Scene, Script, lose_confirmations
from tests.simulation.worker import SimulatedWorker
from tests.simulation.world import CAROL


class Scenario(NamedTuple):
    rules: tuple[str, ...]
    script: Script


# ---------------------------------------------------------------------------------------------------- adopting


async def _half_fenced(scene: Scene, change: ChatChange | None = None) -> None:
    """Worker 1 left row 1.2 on replica 2 alone. Worker 2 did not see it, and left its fence on replica 0 alone. So replicas 0
    and 2 together show 1.1; 1 and 2 show 1.2, unless somebody wrote it again later than the fence."""
    cluster = scene.cluster
    worker = await scene.worker(1, scene.alice)
    await scene.insist(scene.alice, b"1.1")
    cluster.only("messages", 2)
    if change is None:
        scene.soon(scene.send, scene.alice, b"1.2")
    else:
        scene.soon(scene.alice.ask, Op.CHAT_CHANGE, change, 1.0)
    await scene.half_written(worker)

    cluster.ask(0, 1)
    worker = await scene.worker(2, scene.bob)
    cluster.only("messages", 0)
    scene.soon(scene.send, scene.bob, b"lost")
    await scene.half_written(worker)


async def adopted_at_its_own_time(scene: Scene) -> None:
    """Worker 3 sees 1.2 and adopts it, on all replicas. At its old time it is dead on arrival where worker 2's fence is."""
    await _half_fenced(scene)
    scene.cluster.ask(1, 2)
    scene.cluster.heal()
    worker = await scene.worker(3, scene.alice)
    await scene.insist(scene.alice, b"3.3")
    scene.end(worker)


async def adopted_anew(scene: Scene) -> None:
    """Worker 3 sees 1.2, and what it adopts reaches replica 1 alone. Read anew, from 0 and 2, there is no 1.2: it is not part of
    the log then, and yet on replica 1, under an epoch that no fence of worker 3 reaches."""
    await _half_fenced(scene)
    scene.cluster.ask(1, 2)
    scene.cluster.only("messages", 1)
    await scene.worker(3, scene.alice)
    scene.soon(scene.send, scene.alice, b"3.3")
    await scene.until(lambda: scene.cluster.withheld)
    scene.cluster.ask(0, 2)
    scene.cluster.heal()
    await trio.sleep(2.0)
    await scene.insist(scene.alice, b"3.4")


async def members_of_a_row_that_is_buried(scene: Scene) -> None:
    """Row 1.2 adds Carol. Worker 3 sees it and dies as it adopts it: of the row nothing arrives, of its members everything, if
    they leave at once. The last owner asks replicas 0 and 1, where the row is buried, and Carol is in."""
    await _half_fenced(scene, ChatChange(scene.chat_id, add=[CAROL]))
    scene.cluster.ask(1, 2)
    worker = await scene.worker(3, scene.alice)
    scene.cluster.only("messages")
    scene.soon(scene.send, scene.alice, b"lost")
    await scene.half_written(worker)
    scene.cluster.ask(0, 1)


async def fenced_at_the_epoch(scene: Scene) -> None:
    """Worker 2 does not see 1.2, and its fence from 1.1 on reaches replica 0 alone. Then 1.2 arrives on 1 and 2. Were the
    adoption computed anew, it would take 1.2 in, at the time of its epoch; were the fence of that very time, it would bury it on
    replica 0."""
    cluster = scene.cluster
    worker = await scene.worker(1, scene.alice)
    await scene.insist(scene.alice, b"1.1")
    cluster.only("messages")
    scene.soon(scene.send, scene.alice, b"1.2")
    await scene.half_written(worker)
    late = [(replica, row) for replica, row in cluster.withheld if replica != 0]

    await scene.worker(2, scene.bob)
    cluster.only("messages", 0)
    scene.soon(scene.send, scene.bob, b"2.3")
    await scene.until(lambda: cluster.withheld)
    cluster.deliver(late)
    cluster.ask(1, 2)
    cluster.heal()
    await trio.sleep(2.0)
    await scene.insist(scene.bob, b"2.4")


async def forgotten_id(scene: Scene) -> None:
    """The row of a message reached a quorum, its id nobody. Much later, when no memory holds it, it is sent again."""
    worker = await scene.worker(1, scene.alice)
    scene.cluster.only("resends")
    scene.soon(scene.send, scene.alice, b"again")
    await scene.half_written(worker)
    scene.cluster.heal()
    worker = await scene.worker(2, scene.alice)
    await scene.insist(scene.alice, *(b"2.%d" % number for number in range(2, 8)))
    worker.evict()
    await scene.send(scene.alice, b"again", is_retry=True)


# ------------------------------------------------------------------------------------------------------ buckets


async def bucket_that_nobody_knows(scene: Scene) -> None:
    """Bucket 0 is full. Worker 1 dies as it begins the next, whose name reaches nobody. If the first row went with the name,
    it is everywhere, and worker 2 does not look there: only its fence does."""
    worker = await scene.worker(1, scene.alice)
    await scene.insist(scene.alice, b"1.1", b"1.2", b"1.3")
    scene.cluster.only("chats")
    scene.soon(scene.send, scene.alice, b"1.4")
    await scene.half_written(worker)
    scene.cluster.heal()
    await scene.worker(2, scene.bob)
    await scene.insist(scene.bob, b"2.4")


async def bucket_that_few_know(scene: Scene) -> None:
    """The name of the next bucket has reached replica 0 alone. Worker 2 reads it there, so for worker 2 it is known, and rows go
    into that bucket. Worker 3 asks 1 and 2: it would look for the newest row in the bucket before, and bury those."""
    cluster = scene.cluster
    worker = await scene.worker(1, scene.alice)
    await scene.insist(scene.alice, b"1.1", b"1.2", b"1.3")
    cluster.only("chats", 0)
    scene.soon(scene.send, scene.alice, b"1.4")
    await scene.half_written(worker)
    cluster.heal()
    worker = await scene.worker(2, scene.bob)
    await scene.insist(scene.bob, b"2.4")
    scene.end(worker)
    cluster.ask(1, 2)
    await scene.worker(3, scene.alice)
    await scene.insist(scene.alice, b"3.5")


# ------------------------------------------------------------------------------------------------------ reading


async def history_of_what_is_in_flight(scene: Scene) -> None:
    """A batch of three rows is on replica 0 alone. Somebody asks for the newest message: reading that far would repair the two
    rows that it returns on replica 1, and the next owner, which asks 1 and 2, would adopt a batch without its first row."""
    worker = await scene.worker(1, scene.alice, scene.bob)
    scene.cluster.only("messages", 0)
    for body in (b"1.1", b"1.2", b"1.3"):
        scene.soon(scene.send, scene.alice, body)
    await scene.until(lambda: scene.cluster.withheld)
    await trio.sleep(0.1)
    await scene.bob.ask(Op.HISTORY, History(scene.chat_id, None, None, 1), 1.0)
    scene.end(worker)
    scene.cluster.ask(1, 2)
    scene.cluster.heal()
    await scene.worker(2, scene.alice)
    await scene.insist(scene.alice, b"next")


async def late_first_try(scene: Scene) -> None:
    """A SEND was so late that it was sent again on another connection, and that one was committed. When no memory holds it any
    more, the first one arrives, and it does not say that it is a retry."""
    worker = await scene.worker(1, scene.alice)
    await scene.send(scene.alice, b"1.1", is_retry=True)
    await scene.insist(scene.alice, *(b"1.%d" % number for number in range(2, 8)))
    worker.evict()
    await scene.send(scene.alice, b"1.1")


# ------------------------------------------------------------------------------------------------------- belief


async def _overtaken(
    scene: Scene, *, but_first_after_s: float | None = None, rows: int = 1
) -> tuple[SimulatedWorker, SimulatedWorker]:
    """Worker 1 owns the chat, and alice talks through it. The directory does not name it to worker 2, and the store's answers
    about its slots are lost, or the first is late. Worker 2 takes the chat over and commits a row for bob."""
    first = await scene.worker(1, scene.alice)
    await scene.insist(scene.alice, *(b"1.%d" % number for number in range(1, rows + 1)))
    await trio.sleep(1.2)  # it has asked by now, and knows the rows under the mark that it is told
    second = await scene.worker(2, scene.bob, unseen=first)
    asked = lose_confirmations(scene, first, but_first_after_s=but_first_after_s)
    await scene.until(lambda: asked)
    await scene.insist(scene.bob, b"2.%d" % (rows + 1))
    return first, second


async def answered_from_memory(scene: Scene) -> None:
    """Alice talks through worker 2, and then asks worker 1, which was overtaken and does not know it, for what she has."""
    first, second = await _overtaken(scene)
    await scene.move(scene.alice, second)
    await scene.alice.sync(50)
    await scene.move(scene.alice, first)
    await scene.alice.page(scene.chat_id, 0, scene.alice.cursor[scene.chat_id] + 1, 50)


async def confirmed_by_a_late_answer(scene: Scene) -> None:
    """Worker 1 asked just before it was overtaken, and hears 1.9 s later that it was the owner when it asked. Counted from the
    answer, it would believe for a second beside worker 2, whose fence makes nothing of what it says then."""
    await _overtaken(scene, but_first_after_s=1.9)
    await scene.send(scene.alice, b"lost")


async def committed_past_the_belief(scene: Scene) -> None:
    """Worker 1 was overtaken and does not know it. Its rows are acknowledged, and dead on arrival. If that moved its head, it
    would go on: into the bucket after the next, which worker 2's fence does not reach, and whose name is not fenced at all."""
    await _overtaken(scene, rows=3)
    for number in range(4, 9):
        scene.soon(scene.send, scene.alice, b"1.%d" % number)
        await trio.sleep(0.5)
    await trio.sleep(1.0)


SCENARIOS = (
    Scenario(("before",), confirmed_by_a_late_answer),
    Scenario(("check-memory",), answered_from_memory),
    Scenario(("check-base",), committed_past_the_belief),
    Scenario(("head",), history_of_what_is_in_flight),
    Scenario(("lookback",), late_first_try),
    Scenario(("adopt-ids",), forgotten_id),
    Scenario(("adopt-ts",), adopted_at_its_own_time),
    Scenario(("adopt-same",), adopted_anew),
    Scenario(("members-after",), members_of_a_row_that_is_buried),
    Scenario(("fence-ts", "adopt-same"), fenced_at_the_epoch),
    Scenario(("pointer-first", "fence-next"), bucket_that_nobody_knows),
    Scenario(("pointer-again", "repair"), bucket_that_few_know),
)

COVERED = {
    "fence-ts": "an owner's fence begins at the newest row that it saw and ends below its own rows, so it could only bury what"
    " the same owner adopted beyond its own first look; and it never looks a second time (adopt-same)",
    "pointer-first": "of a bucket that was not named at a quorum no row was acknowledged, so the next owner may bury what it has;"
    " and does, though it does not look there, since its fence reaches into the next bucket (fence-next)",
    "pointer-again": "the read that the adoption learned the bucket from has written it to a quorum before it answered (repair)",
    "repair": "what an adoption read of the tail, of the bucket and of members it writes to a quorum itself, and other reads are"
    " of rows that a quorum has; what is left of it is the bucket, which an adoption writes again (pointer-again)",
}
"""Rules that break nothing when they alone are taken out, as far as is known: which other one covers each, and why. A script
shows that the two together are needed."""
