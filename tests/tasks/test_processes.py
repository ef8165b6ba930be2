"""What processes tell each other."""

import contextlib
import os
import queue
import signal
import socket
import threading
import time
from types import SimpleNamespace

import pytest

from backbone import InputError
from tasks import processes
from tasks.processes import EndTogether, gather


def test_in_one_process_its_own_entries_come_back_by_key():
    assert list(gather({9: "b", 2: "a"}).items()) == [(2, "a"), (9, "b")]


@pytest.fixture
def connected(monkeypatch, tmp_path):
    """Three that are connected as three processes are, in this one; and the exit codes that they were ended with."""
    ended = []
    monkeypatch.setattr(processes, "_HEARD_S", 0.3)
    monkeypatch.setattr(processes.os, "_exit", ended.append)
    offer = queue.Queue()

    def broadcast(given):
        if given is None:
            given = offer.get()
        offer.put(given)
        return given

    three = [EndTogether(lambda: " Kept.") for _ in range(3)]
    strategy = SimpleNamespace(launcher=None, broadcast=broadcast)
    threads = [
        threading.Thread(
            target=one.setup, args=(SimpleNamespace(world_size=3, global_rank=i, strategy=strategy), None, "fit")
        )
        for i, one in enumerate(three)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    yield three, ended
    for one in three:
        for peer in one._peers.values():
            with contextlib.suppress(OSError):  # it is closed already
                peer.shutdown(2)
    for thread in threading.enumerate():
        if thread.name == "peer":  # it may be about to end this process
            thread.join(10)


def ends(one, error=None):
    with one:
        if error is not None:
            raise error


def test_processes_that_end_well_let_each_other_go(connected):
    three, ended = connected
    for one in three:
        ends(one)
    time.sleep(0.6)
    assert ended == []


def test_what_one_process_fails_with_is_what_the_first_ends_with(connected):
    three, ended = connected
    own = threading.Thread(target=ends, args=(three[2], InputError("a is b; give c.")))  # which waits for the first
    own.start()
    with pytest.raises(InputError, match=r"^a is b; give c\. Kept\.$"):
        ends(three[0], RuntimeError("connection closed by peer"))  # what it has noticed of it
    with pytest.raises(SystemExit) as silent:
        ends(three[1], RuntimeError("connection closed by peer"))
    assert silent.value.code == 2
    own.join(10)
    time.sleep(0.6)
    assert set(ended) == {2}  # those that had not come to their own end by then


def test_a_process_that_is_gone_ends_the_others_with_the_first_speaking(connected, capsys):
    three, ended = connected
    three[1]._peers[0].shutdown(2)  # as the system does for a process that is killed
    time.sleep(1)
    assert set(ended) == {2}
    assert "error: process 1 of the run is gone: it was killed, or its machine was. Kept." in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(socket, "TCP_KEEPIDLE"), reason="the system has no such options")
def test_a_link_that_is_cut_breaks_every_connection_within_a_minute(connected):
    """What Linux does where nothing comes back: it asks after so many seconds of silence, again, and then gives up."""
    for peer in (peer for one in connected[0] for peer in one._peers.values()):
        names = "TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT"
        idle, interval, count = (peer.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in names)
        assert peer.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert idle + interval * count + processes._HEARD_S < 60


def test_where_the_first_is_gone_the_second_speaks(connected, capsys, monkeypatch):
    three, _ = connected
    monkeypatch.setattr(three[0], "_tell", lambda *given: None)  # a process that is gone tells nothing
    for peer in three[0]._peers.values():
        peer.shutdown(2)
    with pytest.raises(InputError, match="process 0 of the run is gone"):
        ends(three[1], RuntimeError("connection closed by peer"))
    with pytest.raises(SystemExit):
        ends(three[2], RuntimeError("connection closed by peer"))


def test_a_process_whose_parent_is_gone_is_told_to_stop_and_then_ended(monkeypatch):
    told = []
    monkeypatch.setattr(processes, "_GRACE_S", 0)
    monkeypatch.setattr(processes.os, "getppid", lambda: 1)
    monkeypatch.setattr(processes.os, "kill", lambda *given: told.append(given))
    monkeypatch.setattr(processes.os, "_exit", told.append)
    processes._end_after(2**22 + 1)
    assert told == [(os.getpid(), signal.SIGTERM), 143]


def test_a_process_that_fails_before_it_is_connected_ends_the_first(monkeypatch, tmp_path, capsys):
    def end(code):
        ended.append(code)
        raise SystemExit  # of the observing thread

    (tmp_path / "run").mkdir()
    for code, expected, words in ((2, 2, ""), (-9, 1, "process 1 of the run is gone"), (-15, 143, ""), (130, 130, "")):
        ended, killed = [], []
        monkeypatch.setattr(processes, "_HEARD_S", 0)
        monkeypatch.setattr(processes.os, "_exit", end)
        one = EndTogether(str)
        one.run = tmp_path / "run"
        child = SimpleNamespace(poll=lambda code=code: code, kill=lambda: killed.append(1))  # noqa: B023
        one._children = [child]
        with pytest.raises(SystemExit):
            one._observe()
        assert (ended, killed) == ([expected], [1])
        assert words in capsys.readouterr().err
        assert not (tmp_path / "run").exists()  # nothing was in it
