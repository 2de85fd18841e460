"""The beginning of a link's connection, without sockets: who is let in, and what else is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cluster.handshake import (
    MIN_SECRET_BYTES,
    NONCE_BYTES,
    Accepting,
    HandshakeFailed,
    LinkKey,
    Opening,
    Party,
    Reason,
    refusal_frame,
)
from gateway.cluster.wire import LinkHello, LinkOp, LinkProtocolError, decode, encode
from gateway.protocol.identifiers import WorkerId

HEAD_BYTES = 12
OLD, NEW = LinkKey("old", b"o" * 32), LinkKey("new", b"n" * 32)
IMPOSTOR = LinkKey("old", b"another secret of that name")
V = (1, 2)
ONE, TWO = Party(WorkerId(1), 11, V, (OLD,)), Party(WorkerId(2), 22, V, (OLD,))

Frame = tuple[int, bytes]


def nonce(fill: int) -> bytes:
    return bytes([fill]) * NONCE_BYTES


def frames(glued: bytes) -> Iterator[Frame]:
    """(op, payload)."""
    while glued:
        size = 4 + int.from_bytes(glued[:4])
        yield glued[4], glued[HEAD_BYTES:size]
        glued = glued[size:]


def opening(party: Party = ONE, to: tuple[int, int] = (2, 22), fill: int = 1, *, is_local: bool = False) -> Opening:
    key = None if is_local else party.keys[0]
    proof = ("", b"") if key is None else (key.key_id, nonce(fill))
    return Opening(party, party.hello(to, "10.0.0.1:7900", stream=5, proof=proof), key)


def accepting(party: Party = TWO, fill: int = 2, *, is_local: bool = False) -> Accepting:
    return Accepting(party, "10.0.0.2:7900", None if is_local else nonce(fill))


def unchanged(frame: Frame) -> Frame:
    return frame


def converse(opener: Opening, acceptor: Accepting, change: Callable[[Frame], Frame] = unchanged) -> list[Frame]:
    """Let them speak until nobody has more to say; ``change`` is the network. The frames as they were sent."""
    sent: list[Frame] = []
    to_acceptor, to_opener = list(frames(opener.begin())), list[Frame]()
    while to_acceptor or to_opener:
        if to_acceptor:
            sent.append(to_acceptor.pop(0))
            to_opener += frames(acceptor.receive(*change(sent[-1])))
        else:
            sent.append(to_opener.pop(0))
            to_acceptor += frames(opener.receive(*change(sent[-1])))
    return sent


def reason_of(opener: Opening, acceptor: Accepting, change: Callable[[Frame], Frame] = unchanged) -> Reason:
    with pytest.raises(HandshakeFailed) as failed:
        converse(opener, acceptor, change)
    return failed.value.reason


def test_two_that_share_a_key_know_each_other_after_four_frames() -> None:
    opener, acceptor = opening(), accepting()
    sent = converse(opener, acceptor)
    assert [op for op, _ in sent] == [LinkOp.HELLO, LinkOp.HELLO, LinkOp.PROOF, LinkOp.PROOF]
    assert opener.is_done
    assert acceptor.is_done
    assert acceptor.hello is not None
    assert (acceptor.hello.worker_id, acceptor.hello.incarnation, acceptor.hello.stream) == (1, 11, 5)
    assert opener.version == acceptor.version == 2


def test_on_a_trusted_connection_two_frames_do_and_no_key_is_asked_for() -> None:
    opener, acceptor = opening(is_local=True), accepting(is_local=True)
    assert [op for op, _ in converse(opener, acceptor)] == [LinkOp.HELLO, LinkOp.HELLO]
    assert opener.is_done
    assert acceptor.is_done


@pytest.mark.parametrize(
    ("openers", "acceptors"),
    [
        ([OLD], [OLD]),
        ([OLD], [OLD, NEW]),
        ([OLD, NEW], [OLD]),
        ([OLD, NEW], [NEW, OLD]),
        ([NEW, OLD], [OLD, NEW]),
        ([NEW, OLD], [NEW]),
        ([NEW], [NEW, OLD]),
    ],
)
def test_each_step_of_a_change_of_keys_leaves_a_common_one(openers: list[LinkKey], acceptors: list[LinkKey]) -> None:
    opener = opening(Party(WorkerId(1), 11, V, openers))
    acceptor = accepting(Party(WorkerId(2), 22, V, acceptors))
    converse(opener, acceptor)
    assert opener.is_done
    assert acceptor.is_done


@pytest.mark.parametrize(
    ("openers", "acceptors", "spoken"),
    [((1, 1), (1, 2), 1), ((1, 2), (1, 1), 1), ((1, 2), (2, 3), 2), ((2, 4), (1, 3), 3)],
)
def test_the_lower_of_the_newest_versions_is_spoken(
    openers: tuple[int, int], acceptors: tuple[int, int], spoken: int
) -> None:
    opener = opening(Party(WorkerId(1), 11, openers, (OLD,)))
    acceptor = accepting(Party(WorkerId(2), 22, acceptors, (OLD,)))
    converse(opener, acceptor)
    assert opener.version == acceptor.version == spoken


def test_a_hello_of_version_1_alone_names_no_newest() -> None:
    acceptor = accepting(is_local=True)
    acceptor.receive(LinkOp.HELLO, encode(LinkHello(1, 1, 11, 2, 22, 5, "/one.sock")))
    assert (acceptor.is_done, acceptor.version) == (True, 1)


@pytest.mark.parametrize(
    ("meaning", "opener", "acceptor", "reason"),
    [
        ("another secret of that name", opening(), accepting(Party(WorkerId(2), 22, V, (IMPOSTOR,))), Reason.PROOF),
        ("a key unknown there", opening(), accepting(Party(WorkerId(2), 22, V, (NEW,))), Reason.KEY),
        ("no key there at all", opening(), accepting(Party(WorkerId(2), 22, V)), Reason.KEY),
        ("another worker there", opening(to=(3, 22)), accepting(), Reason.IDENTITY),
        ("an earlier life was meant", opening(to=(2, 21)), accepting(), Reason.IDENTITY),
        ("ourselves", opening(TWO, to=(2, 22)), accepting(), Reason.IDENTITY),
        ("a supervisor", opening(Party(WorkerId(0), 1, V, (OLD,))), accepting(), Reason.IDENTITY),
        ("all too old", opening(), accepting(Party(WorkerId(2), 22, (3, 4), (OLD,))), Reason.VERSION),
        ("all too new", opening(Party(WorkerId(1), 11, (3, 4), (OLD,))), accepting(), Reason.VERSION),
        ("no nonce", opening(is_local=True), accepting(), Reason.PROTOCOL),
        ("a trusting acceptor", opening(), accepting(is_local=True), Reason.PROTOCOL),
    ],
)
def test_who_does_not_fit_is_refused_with_the_reason(
    meaning: str, opener: Opening, acceptor: Accepting, reason: Reason
) -> None:
    assert reason_of(opener, acceptor) == reason
    assert not acceptor.is_done or not opener.is_done


def test_a_recorded_handshake_opens_nothing_a_second_time() -> None:
    opener = opening()
    recorded = converse(opener, accepting(fill=2))
    from_opener = [recorded[0], recorded[3]]
    again = accepting(fill=3)
    again.receive(*from_opener[0])
    with pytest.raises(HandshakeFailed) as failed:
        again.receive(*from_opener[1])
    assert failed.value.reason == Reason.PROOF
    assert not again.is_done


def test_a_recorded_acceptor_cannot_be_played_to_an_opener() -> None:
    recorded = converse(opening(fill=1), accepting())
    again = opening(fill=7)
    again.receive(*recorded[1])
    with pytest.raises(HandshakeFailed) as failed:
        again.receive(*recorded[2])
    assert failed.value.reason == Reason.PROOF


def test_an_openers_own_frames_sent_back_to_it_are_refused() -> None:
    opener = opening()
    (hello,) = frames(opener.begin())
    with pytest.raises(HandshakeFailed) as failed:
        opener.receive(*hello)
    assert failed.value.reason == Reason.IDENTITY


def test_an_acceptors_proof_sent_back_to_it_is_no_openers_proof() -> None:
    acceptor = accepting()
    (hello,) = frames(opening().begin())
    answer = list(frames(acceptor.receive(*hello)))
    with pytest.raises(HandshakeFailed) as failed:
        acceptor.receive(*answer[1])
    assert failed.value.reason == Reason.PROOF


def test_a_man_in_the_middle_cannot_lower_the_version() -> None:
    def lower(frame: Frame) -> Frame:
        op, payload = frame
        if op != LinkOp.HELLO:
            return frame
        return op, encode(msgspec.structs.replace(decode(LinkHello, payload), newest=1))

    assert reason_of(opening(), accepting(), lower) == Reason.PROOF


@pytest.mark.parametrize(
    ("op", "payload"),
    [
        (LinkOp.PROOF, b"\0" * 32),
        (LinkOp.REPLY, b""),
        (LinkOp.DELIVER, b"\0" * 12),
        (0xB0, b"a request"),
        (LinkOp.HELLO, b"\xc1"),
        (LinkOp.HELLO, b""),
    ],
)
def test_what_comes_before_the_hello_is_refused_at_either_end(op: int, payload: bytes) -> None:
    for end in (opening(), accepting()):
        with pytest.raises(LinkProtocolError):
            end.receive(op, payload)
        assert not end.is_done


@pytest.mark.parametrize("op", [LinkOp.HELLO, LinkOp.REPLY, LinkOp.REFUSAL, 0xB0])
def test_nothing_but_a_proof_follows_the_hello(op: int) -> None:
    acceptor = accepting()
    (hello,) = frames(opening().begin())
    acceptor.receive(*hello)
    with pytest.raises(LinkProtocolError):
        acceptor.receive(op, hello[1])
    assert not acceptor.is_done


def test_the_other_ends_refusal_is_told_with_its_reason() -> None:
    (refusal,) = frames(refusal_frame(Reason.KEY))
    with pytest.raises(HandshakeFailed, match="key") as failed:
        opening().receive(*refusal)
    assert failed.value.reason == Reason.REFUSED


@given(at=st.integers(0, 10_000), flip=st.integers(1, 255), which=st.integers(0, 3))
def test_a_byte_changed_anywhere_under_way_ends_no_handshake_well(at: int, flip: int, which: int) -> None:
    count = -1

    def change(frame: Frame) -> Frame:
        nonlocal count
        count += 1
        if count != which:
            return frame
        changed = bytearray(frame[1])
        changed[at % len(changed)] ^= flip
        return frame[0], bytes(changed)

    opener, acceptor = opening(), accepting()
    with pytest.raises(LinkProtocolError):
        converse(opener, acceptor, change)
    assert not acceptor.is_done


@given(st.lists(st.tuples(st.sampled_from([*LinkOp, 0, 0xB0]), st.binary(max_size=120)), max_size=6))
def test_a_stranger_without_the_key_gets_nowhere_whatever_it_sends(sent: list[Frame]) -> None:
    for end in (opening(), accepting()):
        for op, payload in sent:
            try:
                end.receive(op, payload)
            except LinkProtocolError:
                break
        assert not end.is_done


@pytest.mark.parametrize(
    ("key_id", "secret"), [("", b"x" * 32), ("x" * 65, b"x" * 32), ("k", b"x" * (MIN_SECRET_BYTES - 1))]
)
def test_what_is_too_short_to_be_a_key_is_none(key_id: str, secret: bytes) -> None:
    with pytest.raises(ValueError, match="key"):
        LinkKey(key_id, secret)


def test_a_key_does_not_show_its_secret() -> None:
    assert "o" * 32 not in repr(OLD)
    assert "o" * 32 not in repr(ONE)
