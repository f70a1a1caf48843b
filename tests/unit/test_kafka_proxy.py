"""How the tests' proxies tell the requests in a stream, whatever the pieces in which it comes."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from tests.support.kafka.proxy_process import Requests

requests = st.tuples(st.integers(0, 90), st.binary(max_size=40))


@given(st.lists(requests, max_size=8), st.data())
def test_each_request_is_told_in_the_piece_that_ends_it(sent: list[tuple[int, bytes]], data: st.DataObject) -> None:
    frames = [struct.pack(">ih", len(body) + 2, key) + body for key, body in sent]
    stream = b"".join(frames)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)))))
    found, wanted = [], []
    reader = Requests()

    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found.append(reader.ended_in(stream[start:end]))
        ends = [sum(len(frame) for frame in frames[: count + 1]) for count in range(len(frames))]
        wanted.append([key for (key, _), at in zip(sent, ends, strict=True) if start < at <= end])

    assert found == wanted
