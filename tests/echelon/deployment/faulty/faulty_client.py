"""A worker of rank r does something wrong in round r + 2; worker 0 hangs in round 5."""

import time

from echelon.clients import make_client_app
from flwr.app import Array, ArrayRecord

SECONDS = 45.0


def load_data(rank, num_workers):
    import faulty_model

    return faulty_model.load_data(rank, num_workers)


def build_model():
    import faulty_model

    return faulty_model.build_model()


def mod(message, context, call_next):
    import numpy as np

    case = (context.node_config["rank"], message.content["config"]["server_round"])
    if case == (0, 2):
        raise OSError("the disk is full")
    if case == (0, 5):
        time.sleep(SECONDS)
    reply = call_next(message, context)
    if case == (1, 3):
        arrays = reply.content["arrays"]
        reply.content["arrays"] = ArrayRecord({k: Array(np.full_like(v.numpy(), np.nan)) for k, v in arrays.items()})
    if case == (2, 4):
        arrays = reply.content["arrays"]
        reply.content["arrays"] = ArrayRecord({k: Array(v.numpy()[:1]) for k, v in arrays.items()})
    return reply


app = make_client_app(load_data, build_model, mods=[mod], persistent="faulty_client:app")
