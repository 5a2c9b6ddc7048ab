"""Sends back what it gets, packed in the same form."""

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from echelon.protocol.packing import pack, unpack

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Return the arrays of a message."""
    content = unpack(message.content)
    return Message(pack(content, int(str(content.config_records["config"]["most"]))), reply_to=message)
