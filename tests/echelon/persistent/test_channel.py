import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, MetricRecord, RecordDict

from echelon.persistent import channel
from echelon.protocol.messages import as_ndarray

KEY = b"k" * channel.KEY_BYTES


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    client, trainer = socket.socketpair()
    client.settimeout(5)
    trainer.settimeout(5)
    with client, trainer:
        yield client, trainer


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


class TestKey:
    def test_both_know_it(self, ends: tuple[socket.socket, socket.socket], pool: ThreadPoolExecutor) -> None:
        admitted = pool.submit(channel.admit, ends[1], KEY)
        channel.introduce(ends[0], KEY)
        admitted.result()

    def test_client_does_not_know_it(self, ends: tuple[socket.socket, socket.socket], pool: ThreadPoolExecutor) -> None:
        client, trainer = ends
        introduced = pool.submit(channel.introduce, client, b"x" * channel.KEY_BYTES)
        with pytest.raises(channel.ChannelError, match="a client does not know the key"):
            channel.admit(trainer, KEY)
        trainer.close()
        with pytest.raises(channel.ChannelError, match="the connection was closed"):
            introduced.result()

    def test_trainer_does_not_know_it(self, ends: tuple[socket.socket, socket.socket]) -> None:
        client, trainer = ends
        trainer.sendall(struct.pack("!Q", 32) + b"n" * 32 + struct.pack("!Q", 32) + b"p" * 32)
        with pytest.raises(channel.ChannelError, match="the trainer does not know its key"):
            channel.introduce(client, KEY)

    def test_a_proof_is_good_for_one_role_in_one_conversation(self) -> None:
        proofs = [(b"client", b"a", b"b"), (b"trainer", b"a", b"b"), (b"client", b"c", b"b"), (b"client", b"a", b"c")]
        assert len({channel._proof(KEY, role, one * 32, other * 32) for role, one, other in proofs}) == len(proofs)


class TestFrames:
    def test_request_and_answer_arrive_as_they_were(
        self, ends: tuple[socket.socket, socket.socket], pool: ThreadPoolExecutor
    ) -> None:
        values = np.random.default_rng(0).standard_normal((700, 300)).astype(np.float32)
        content = RecordDict({"arrays": ArrayRecord({"w": Array(values)}), "config": ConfigRecord({"lr": 0.1})})
        context = Context(3, 4, {"rank": 1, "data": "/here"}, RecordDict(), {"overrides": "seed=1"})
        received = pool.submit(channel.receive_request, ends[1])
        channel.send_request(ends[0], channel.Request("train", content, context))
        request = received.result()
        assert (request.message_type, request.context) == ("train", context)
        assert as_ndarray(request.content.array_records["arrays"]["w"]).tobytes() == values.tobytes()
        assert request.content.config_records["config"] == content.config_records["config"]
        answered = pool.submit(channel.receive_answer, ends[0])
        channel.send_answer(ends[1], RecordDict({"metrics": MetricRecord({"loss": 0.25})}))
        assert answered.result().metric_records["metrics"]["loss"] == 0.25

    def test_failure(self, ends: tuple[socket.socket, socket.socket]) -> None:
        channel.send_failure(ends[1], "ValueError: no")
        with pytest.raises(channel.WorkerFailedError, match=r"^ValueError: no$"):
            channel.receive_answer(ends[0])

    @pytest.mark.parametrize("length", [(1 << 16) + 1, 1 << 31, (1 << 64) - 1])
    def test_too_long_a_frame_is_rejected_before_memory_is_allocated(
        self, ends: tuple[socket.socket, socket.socket], length: int
    ) -> None:
        ends[1].sendall(struct.pack("!Q", length))
        with pytest.raises(channel.ChannelError, match=f"a frame must have at most .* bytes; got {length}"):
            channel.receive_answer(ends[0])

    def test_peer_closes_within_a_frame(self, ends: tuple[socket.socket, socket.socket]) -> None:
        ends[1].sendall(struct.pack("!Q", 6) + b"answ")
        ends[1].close()
        with pytest.raises(channel.ChannelError, match="the connection was closed"):
            channel.receive_answer(ends[0])

    def test_peer_does_not_answer(self, ends: tuple[socket.socket, socket.socket]) -> None:
        ends[0].settimeout(0.01)
        with pytest.raises(TimeoutError):
            channel.receive_answer(ends[0])
