"""The queue that demo and tests feed the worker by."""

from __future__ import annotations

import threading

from stream_ad.transports.memory import MemorySink, MemorySource


def test_records_come_in_order_and_a_poll_is_bounded() -> None:
    source = MemorySource(maximum_poll=2)
    source.append([b"0", b"1", b"2"], keys=[b"k", None, b""], timestamps=[5, 6, 7])
    first, second = source.poll(0.0), source.poll(0.0)
    assert (first.values, second.values) == ([b"0", b"1"], [b"2"])
    assert second.offsets.tolist() == [2]
    assert second.keys == [b""]
    assert second.timestamps.tolist() == [7]
    assert source.committed == 0
    source.commit()
    assert source.committed == 3


def test_it_is_exhausted_when_closed_and_drained() -> None:
    source = MemorySource()
    source.append([b"0"])
    source.close_input()
    assert not source.exhausted
    source.poll(0.0)
    assert source.exhausted


def test_append_waits_for_room() -> None:
    source = MemorySource(maximum_pending=1)
    source.append([b"0"])
    feeder = threading.Thread(target=source.append, args=([b"1"],))
    feeder.start()
    assert source.poll(0.0).values == [b"0"]
    feeder.join(timeout=5)
    assert source.poll(1.0).values == [b"1"]


def test_the_sink_keeps_what_it_gets_or_hands_it_on() -> None:
    sink = MemorySink()
    sink.write([None, None], [b"a", b"b"])
    sink.write_alerts([None], [b"b"])
    assert (sink.values, sink.anomalies) == ([b"a", b"b"], [b"b"])
    heard: list[object] = []
    MemorySink(on_write=lambda *what: heard.append(what)).write([None], [b"c"])
    assert heard == [([None], [b"c"])]
