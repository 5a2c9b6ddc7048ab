"""What a client process and its trainer process say to each other over a Unix socket: frames of bounded size.

Both prove first that they know the trainer's key. Contents travel in Flower's own protobuf encoding: nothing that comes
out of the socket is ever unpickled.
"""

import hmac
import secrets
import socket
import struct
from dataclasses import dataclass

from flwr.app import Context, RecordDict
from flwr.common import serde
from flwr.proto.message_pb2 import Context as ProtoContext
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict

KEY_BYTES = 32

_LENGTH = struct.Struct("!Q")
_NONCE_BYTES = 32
_LONGEST_TEXT = 1 << 16
# Protobuf reads no message beyond 2 GiB.
_LONGEST_CONTENT = (1 << 31) - 1
_ANSWER, _FAILURE = b"answer", b"failure"


class ChannelError(ConnectionError):
    """The other side does not know the key, or says what nobody should say."""


class WorkerFailedError(RuntimeError):
    """The trainer process is well, but the request failed in it; says with what error."""


@dataclass(frozen=True)
class Request:
    """A message for a worker: its type, its content, and the context of its node without state."""

    message_type: str
    content: RecordDict
    context: Context


def introduce(channel: socket.socket, key: bytes) -> None:
    """Open a conversation with a trainer: prove to know its key, and let it prove the same.

    Raises
    ------
    ChannelError
        If it does not know the key.
    OSError
        If it is gone, or does not answer within the socket's timeout.
    """
    challenge = _receive(channel, _NONCE_BYTES)
    own = secrets.token_bytes(_NONCE_BYTES)
    _send(channel, own + _proof(key, b"client", challenge, own))
    if not hmac.compare_digest(_receive(channel, _NONCE_BYTES), _proof(key, b"trainer", own, challenge)):
        raise ChannelError("the trainer does not know its key")


def admit(channel: socket.socket, key: bytes) -> None:
    """Let a client open a conversation; raises as :func:`introduce`."""
    own = secrets.token_bytes(_NONCE_BYTES)
    _send(channel, own)
    answer = _receive(channel, 2 * _NONCE_BYTES)
    challenge, proof = answer[:_NONCE_BYTES], answer[_NONCE_BYTES:]
    if not hmac.compare_digest(proof, _proof(key, b"client", own, challenge)):
        raise ChannelError("a client does not know the key")
    _send(channel, _proof(key, b"trainer", challenge, own))


def send_request(channel: socket.socket, request: Request) -> None:
    """Send a request; raise OSError if the trainer is gone or takes nothing within the socket's timeout."""
    _send(channel, request.message_type.encode())
    _send(channel, serde.context_to_proto(request.context).SerializeToString())
    _send(channel, serde.recorddict_to_proto(request.content).SerializeToString())


def receive_request(channel: socket.socket) -> Request:
    """Read a request."""
    message_type = bytes(_receive(channel, _LONGEST_TEXT)).decode()
    context = serde.context_from_proto(ProtoContext.FromString(_receive(channel, _LONGEST_TEXT)))
    content = serde.recorddict_from_proto(ProtoRecordDict.FromString(_receive(channel, _LONGEST_CONTENT)))
    return Request(message_type, content, context)


def send_answer(channel: socket.socket, content: RecordDict) -> None:
    """Send the content of a reply."""
    _send(channel, _ANSWER)
    _send(channel, serde.recorddict_to_proto(content).SerializeToString())


def send_failure(channel: socket.socket, text: str) -> None:
    """Say why there is no reply."""
    _send(channel, _FAILURE)
    _send(channel, text.encode()[:_LONGEST_TEXT])


def receive_answer(channel: socket.socket) -> RecordDict:
    """Read the content of a reply.

    Raises
    ------
    WorkerFailedError
        If the request failed.
    OSError
        If the trainer is gone, or does not answer within the socket's timeout.
    """
    kind = _receive(channel, _LONGEST_TEXT)
    if kind == _FAILURE:
        raise WorkerFailedError(bytes(_receive(channel, _LONGEST_TEXT)).decode(errors="replace"))
    return serde.recorddict_from_proto(ProtoRecordDict.FromString(_receive(channel, _LONGEST_CONTENT)))


def _proof(key: bytes, role: bytes, challenge: bytes, own: bytes) -> bytes:
    return hmac.digest(key, role + challenge + own, "sha256")


def _send(channel: socket.socket, frame: bytes) -> None:
    if len(frame) > _LONGEST_CONTENT:
        raise ChannelError(f"a persistent worker accepts messages of up to {_LONGEST_CONTENT} bytes; got {len(frame)}")
    channel.sendall(_LENGTH.pack(len(frame)))
    channel.sendall(frame)


def _receive(channel: socket.socket, longest: int) -> bytes:
    (length,) = _LENGTH.unpack(_read(channel, _LENGTH.size))
    if length > longest:
        raise ChannelError(f"a frame of {length} bytes is refused; at most {longest} are expected here")
    return _read(channel, length)


def _read(channel: socket.socket, length: int) -> bytes:
    buffer = bytearray(length)
    view = memoryview(buffer)
    while view:
        count = channel.recv_into(view)
        if count == 0:
            raise ChannelError("the other side has gone")
        view = view[count:]
    return bytes(buffer)
