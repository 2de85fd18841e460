"""What must hold in the end, whatever went wrong: the judgement on one schedule.

Owns the final verdict. ``bench.delivery``'s checker judges what clients were told (it is the checker of tests and bench
alike); here is what it cannot know: what the replicas hold when the last late mutation has arrived, and what a client was
told is *complete*.

  Every two replicas make the same log of a chat, and it is what the last owner served.
  Counters grow by one, prev_seq names the row before, and an id is there once.
  A span that a client was told is complete (by a chain of MSGs, a HISTORY page, a SYNC) has the rows of the log and no
    others.
  The rows of members, chats by user and the chat itself are what the log's system rows imply.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bench.delivery import DeliveryChecker, digest_of
from bench.delivery import Message as SeenMessage
from bench.violations import Rule
from gateway.chat.draft import NO_ID
from gateway.chat.membership import Step, apply_step
from gateway.protocol.frames import decode
from gateway.protocol.identifiers import counter_of, epoch_of
from gateway.protocol.messages import Event, Kind, SystemBody
from storage.api import Chat, Member
from storage.scylla.rows import message_of
from tests.simulation.cells import Cells, value_of
from tests.simulation.replicas import REPLICAS, Cluster

CHAT_COLUMNS = ("kind", "title", "version", "changed_counter")
MEMBER_COLUMNS = ("role", "joined_seq", "left_seq", "changed_counter")
MAX_EVIDENCE = 5


class Claim(NamedTuple):
    """A client was told that (low, high] is just these rows."""

    chat_id: int
    low: int
    high: int
    seqs: frozenset[int]
    how: str


class LogRow(NamedTuple):
    seq: int
    prev_seq: int
    sender_id: int
    kind: int
    body: bytes
    client_msg_id: bytes


class Group(NamedTuple):
    """A chat as it was made."""

    chat: Chat
    members: Sequence[Member]


def show(seq: int) -> str:
    return f"{epoch_of(seq)}.{counter_of(seq)}"  # type: ignore[arg-type]


class Judge:
    def __init__(self, groups: Mapping[int, Group]) -> None:
        self.checker = DeliveryChecker()
        self.groups = groups
        self.claims: list[Claim] = []
        self.found: list[str] = []
        self.final_heads: dict[int, int] = {}
        """What the last owner named."""

    def violations(self) -> list[str]:
        """RISING is no fault here: a push that an earlier owner gave to a slow link may come after a later owner's, and a client
        drops it."""
        told = [str(one) for one in self.checker.conclude() if one.rule is not Rule.RISING]
        return [*self.found, *told]

    def conclude(self, cluster: Cluster) -> None:
        for chat_id, group in self.groups.items():
            logs = [self._log(cluster, chat_id, some) for some in _quorums()]
            log = logs[-1]
            for some, other in zip(_quorums(), logs, strict=True):
                if other != log:
                    odd = {row.seq for row in set(other) ^ set(log)}
                    self._say(f"replicas {some} have another log of chat {chat_id}: {_some(odd)}")
            self._judge_log(chat_id, log)
            self._judge_claims(chat_id, [row.seq for row in log])
            self._judge_members(cluster, group, log)
            self.checker.final_log(chat_id, [_seen(chat_id, row) for row in log])

    def _say(self, text: str) -> None:
        self.found.append(text)

    def _log(self, cluster: Cluster, chat_id: int, some: Sequence[int]) -> list[LogRow]:
        places = {place for number in range(REPLICAS) for place in cluster.replicas[number]}
        rows = []
        for place in sorted(place for place in places if place[:2] == ("messages", chat_id)):
            rows += [_log_row(key[0], cells) for key, cells in cluster.final(place, some).items() if key]
        return sorted(rows)

    def _judge_log(self, chat_id: int, log: Sequence[LogRow]) -> None:
        newest = log[-1].seq if log else 0
        if chat_id in self.final_heads and self.final_heads[chat_id] != newest:
            self._say(
                f"the last owner's head {show(self.final_heads[chat_id])} of chat {chat_id} is not {show(newest)}"
            )
        prev, ids = 0, {}
        for row in log:
            if counter_of(row.seq) != counter_of(prev) + 1 or row.prev_seq != prev:
                self._say(f"chat {chat_id}: {show(row.seq)} (prev {show(row.prev_seq)}) follows {show(prev)}")
            if row.client_msg_id != NO_ID and ids.setdefault((row.sender_id, row.client_msg_id), row.seq) != row.seq:
                first = ids[row.sender_id, row.client_msg_id]
                self._say(f"chat {chat_id}: {show(first)} and {show(row.seq)} are one message")
            prev = row.seq

    def _judge_claims(self, chat_id: int, seqs: Sequence[int]) -> None:
        said = set()
        for claim in self.claims:
            if claim.chat_id != chat_id:
                continue
            missing = [seq for seq in seqs if claim.low < seq <= claim.high and seq not in claim.seqs]
            if missing and claim.how not in said:
                said.add(claim.how)
                span = f"({show(claim.low)}, {show(claim.high)}]"
                self._say(f"{claim.how} called {span} of chat {chat_id} complete without {_some(missing)}")

    def _judge_members(self, cluster: Cluster, group: Group, log: Sequence[LogRow]) -> None:
        chat, members = implied(group, log)
        chat_id = chat.chat_id
        for some in _quorums():
            rows = cluster.final(("chats", chat_id), some)
            found = tuple(value_of(rows.get((), {}), name) for name in CHAT_COLUMNS)
            if found != (chat.kind, chat.title, chat.version, chat.changed_counter):
                self._say(f"the row of chat {chat_id} in {some} is {found}, its log says {chat}")
            rows = cluster.final(("members", chat_id), some)
            listed = {key[0]: _member(key[0], cells) for key, cells in rows.items() if key}
            if listed != members:
                odd = [user for user in listed.keys() | members.keys() if listed.get(user) != members.get(user)]
                self._say(f"members {odd} of chat {chat_id} in {some} are not what the log says: {listed}, {members}")
            for user_id, member in members.items():
                by_user = cluster.final(("chats_by_user", user_id), some).get((chat_id,), {})
                if _member(user_id, by_user) != member:
                    self._say(f"chats of user {user_id} in {some} do not say {member}")


def implied(group: Group, log: Sequence[LogRow]) -> tuple[Chat, dict[int, Member]]:
    """The chat and its members as the log's system rows say."""
    chat, members = group.chat, {member.user_id: member for member in group.members}
    for row in log:
        if row.kind == Kind.SYSTEM:
            body = decode(SystemBody, row.body)
            step = Step(Event(body.event), body.user_ids, body.title)
            members.update((m.user_id, m) for m in apply_step(members, step, row.seq, counter_of(row.seq)))
            title = body.title if body.title is not None else chat.title
            chat = chat._replace(title=title, version=body.version, changed_counter=counter_of(row.seq))
    return chat, members


def _quorums() -> list[tuple[int, ...]]:
    return [*itertools.combinations(range(REPLICAS), 2), tuple(range(REPLICAS))]


def _log_row(seq: int, cells: Cells) -> LogRow:
    row = message_of((0, seq, value_of(cells, "head"), value_of(cells, "body")))
    return LogRow(seq, row.prev_seq, row.sender_id, row.kind, row.body, row.client_msg_id)


def _member(user_id: int, cells: Cells) -> Member:
    values: list[Any] = [value_of(cells, name) for name in MEMBER_COLUMNS]
    return Member(user_id, *values)


def _seen(chat_id: int, row: LogRow) -> SeenMessage:
    digest = digest_of(row.kind, row.body)
    return SeenMessage(chat_id, row.seq, row.prev_seq, row.sender_id, row.client_msg_id, digest)


def _some(seqs: Any) -> list[str]:
    return [show(seq) for seq in sorted(seqs)[:MAX_EVIDENCE]]
