"""The pipeline, without a socket: whatever comes in whatever pieces, everybody gets the own reply and nothing else."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.redis.errors import ErrorReply, RedisProtocolError, RedisUnavailable
from storage.redis.pipeline import Pipeline, pack
from tests.redis.fake import bulk

FRAMES = st.lists(
    st.one_of(
        st.tuples(st.just("reply"), st.binary(max_size=40)),
        st.tuples(st.just("error"), st.sampled_from([b"ERR no", b"OOM full"])),
        st.tuples(st.just("push"), st.binary(max_size=10)),
    ),
    max_size=30,
)


class Stream:
    """A pipeline, and everything that it handed out."""

    def __init__(self) -> None:
        self.pushes: list[Any] = []
        self.errors: list[str] = []
        self.replies: dict[int, list[Any]] = {}
        self.pipeline = Pipeline(self.pushes.append, lambda error: self.errors.append(error.code))

    def expect(self, name: int) -> None:
        self.pipeline.expect(partial(self._take, name), 0.0)

    def _take(self, name: int, reply: Any) -> None:
        self.replies.setdefault(name, []).append(reply)


def encoded(kind: str, content: bytes) -> bytes:
    if kind == "push":
        return b">2\r\n+message\r\n" + bulk(content)
    return bulk(content) if kind == "reply" else b"-%b\r\n" % content


@given(FRAMES, st.lists(st.integers(1, 50), min_size=1, max_size=30))
def test_replies_in_any_pieces_reach_those_who_asked_in_order(frames: list[tuple[str, bytes]], cuts: list[int]) -> None:
    stream = Stream()
    answers = [content for kind, content in frames if kind != "push"]
    for name in range(len(answers)):
        stream.expect(name)
    wire = b"".join(encoded(kind, content) for kind, content in frames)
    for length in cuts * (len(wire) // sum(cuts) + 1):
        stream.pipeline.receive(wire[:length])
        wire = wire[length:]
    assert [
        [str(r).encode() if isinstance(r, ErrorReply) else r for r in stream.replies[n]] for n in stream.replies
    ] == [[answer] for answer in answers]
    assert [push[1] for push in stream.pushes] == [content for kind, content in frames if kind == "push"]
    assert len(stream.errors) == sum(kind == "error" for kind, _ in frames)


@given(st.integers(0, 60))
def test_a_connection_that_ends_anywhere_in_a_reply_ends_all_who_wait_once(at: int) -> None:
    stream = Stream()
    for name in range(3):
        stream.expect(name)
    stream.pipeline.receive((bulk(b"first") + bulk(b"second") + bulk(b"third"))[:at])
    stream.pipeline.abandon("gone")
    assert [len(replies) for replies in stream.replies.values()] == [1, 1, 1]
    for name, content in enumerate((b"first", b"second", b"third")):
        (reply,) = stream.replies[name]
        assert reply == content or isinstance(reply, RedisUnavailable)
    assert len({id(reply) for (reply,) in stream.replies.values()}) == 3


@pytest.mark.parametrize("wire", [b"HTTP/1.1 200 OK\r\n", b"$abc\r\n", b"*-7\r\n", b"\0"])
def test_what_is_no_resp_is_a_protocol_error(wire: bytes) -> None:
    stream = Stream()
    stream.expect(0)
    with pytest.raises(RedisProtocolError):
        stream.pipeline.receive(wire)


def test_a_reply_that_nobody_asked_for_is_a_protocol_error() -> None:
    with pytest.raises(RedisProtocolError):
        Stream().pipeline.receive(b"+OK\r\n")


@pytest.mark.parametrize(
    ("text", "code", "is_unfit"),
    [
        ("OOM command not allowed when used memory > 'maxmemory'.", "OOM", False),
        ("LOADING Redis is loading the dataset in memory", "LOADING", True),
        ("READONLY You can't write against a read only replica.", "READONLY", True),
        ("ERR Error running script (call to f_1): @user_script:1: -READONLY You can't", "READONLY", True),
        ("ERR unknown command", "ERR", False),
        ("NOAUTH Authentication required.", "NOAUTH", True),
        ("", "", False),
    ],
)
def test_an_error_says_whether_the_server_is_fit(text: str, code: str, is_unfit: bool) -> None:
    error = ErrorReply(text)
    assert (error.code, error.is_unfit) == (code, is_unfit)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("MOVED 3999 127.0.0.1:6381", ("127.0.0.1", 6381)),
        ("MOVED 3999 ::1:6381", ("::1", 6381)),
        ("MOVED 3999 :6381", ("", 6381)),
        ("MOVED 3999", None),
        ("MOVED 3999 nowhere", None),
        ("ERR 3999 127.0.0.1:6381", None),
    ],
)
def test_moved_says_where_to(text: str, address: tuple[str, int] | None) -> None:
    assert ErrorReply(text).moved_to == address


def test_words_of_a_command_may_be_texts_bytes_and_numbers() -> None:
    assert pack(b"SET", "k", 12) == b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\n12\r\n"
