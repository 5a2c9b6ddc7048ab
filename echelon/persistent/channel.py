"""Protocol between a client process and its trainer process over a Unix socket: frames of bounded size.

Both sides first prove that they know the trainer's key. Contents use Flower's protobuf encoding; data from the socket
is never unpickled.
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
# Protobuf's message limit: 2 GiB.
_LONGEST_CONTENT = (1 << 31) - 1
_ANSWER, _FAILURE = b"answer", b"failure"


class ChannelError(ConnectionError):
    """Authentication failed, or the peer violated the protocol."""


class WorkerFailedError(RuntimeError):
    """The request raised an error in the trainer process, which is still running; the message is that error."""


@dataclass(frozen=True)
class Request:
    """A message for a worker: type, content, and the context of its node without state."""

    message_type: str
    content: RecordDict
    context: Context


def introduce(channel: socket.socket, key: bytes) -> None:
    """Open a connection to a trainer: prove knowledge of its key and verify that the trainer knows it too.

    Raises
    ------
    ChannelError
        If the trainer does not know the key.
    OSError
        If the trainer has exited or does not answer within the timeout of the socket.
    """
    challenge = _receive(channel, _NONCE_BYTES)
    own = secrets.token_bytes(_NONCE_BYTES)
    _send(channel, own + _proof(key, b"client", challenge, own))
    if not hmac.compare_digest(_receive(channel, _NONCE_BYTES), _proof(key, b"trainer", own, challenge)):
        raise ChannelError("the trainer does not know its key")


def admit(channel: socket.socket, key: bytes) -> None:
    """Accept a connection from a client; raises the same errors as :func:`introduce`."""
    own = secrets.token_bytes(_NONCE_BYTES)
    _send(channel, own)
    answer = _receive(channel, 2 * _NONCE_BYTES)
    challenge, proof = answer[:_NONCE_BYTES], answer[_NONCE_BYTES:]
    if not hmac.compare_digest(proof, _proof(key, b"client", own, challenge)):
        raise ChannelError("a client does not know the key")
    _send(channel, _proof(key, b"trainer", challenge, own))


def send_request(channel: socket.socket, request: Request) -> None:
    """Send a request; raise OSError if the trainer has exited or does not read within the timeout of the socket."""
    _send(channel, request.message_type.encode())
    _send(channel, serde.context_to_proto(request.context).SerializeToString())
    _send(channel, serde.recorddict_to_proto(request.content).SerializeToString())


def receive_request(channel: socket.socket) -> Request:
    """Receive a request."""
    message_type = bytes(_receive(channel, _LONGEST_TEXT)).decode()
    context = serde.context_from_proto(ProtoContext.FromString(_receive(channel, _LONGEST_TEXT)))
    content = serde.recorddict_from_proto(ProtoRecordDict.FromString(_receive(channel, _LONGEST_CONTENT)))
    return Request(message_type, content, context)


def send_answer(channel: socket.socket, content: RecordDict) -> None:
    """Send the content of a reply."""
    _send(channel, _ANSWER)
    _send(channel, serde.recorddict_to_proto(content).SerializeToString())


def send_failure(channel: socket.socket, text: str) -> None:
    """Send an error message in place of a reply."""
    _send(channel, _FAILURE)
    _send(channel, text.encode()[:_LONGEST_TEXT])


def receive_answer(channel: socket.socket) -> RecordDict:
    """Receive the content of a reply.

    Raises
    ------
    WorkerFailedError
        If the request failed.
    OSError
        If the trainer has exited or does not answer within the timeout of the socket.
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
        raise ChannelError(f"a frame must have at most {longest} bytes; got {length}")
    return _read(channel, length)


def _read(channel: socket.socket, length: int) -> bytes:
    buffer = bytearray(length)
    view = memoryview(buffer)
    while view:
        count = channel.recv_into(view)
        if count == 0:
            raise ChannelError("the connection was closed")
        view = view[count:]
    return bytes(buffer)
