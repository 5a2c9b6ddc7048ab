"""Fine-tune LoRA adapters on unequal devices: python examples/lora_adapters.py (needs flwr-echelon[examples])."""

from typing import Any

import torch
from flwr.app import ArrayRecord
from peft import LoraConfig, get_peft_model
from sklearn.datasets import load_digits
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification

from echelon.clients import Device, Fleet, make_client_app
from echelon.engines.inline import InlineGrid
from echelon.strategies import ALDSGD, SGD, NonBlocking

WORKERS, ROUNDS = 4, 60
digits = load_digits()
IMAGES, LABELS = torch.tensor(digits.images / 8 - 1, dtype=torch.float32)[:, None], torch.tensor(digits.target)


def load_data(rank: int, num_workers: int) -> dict[str, Tensor]:
    """Return a worker's images and their classes."""
    return {"pixel_values": IMAGES[rank:1500:num_workers], "labels": LABELS[rank:1500:num_workers]}


def build_model() -> nn.Module:
    """Return a small transformer with adapters; a real one comes from ``from_pretrained``, the same at every worker."""
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=8,
        patch_size=2,
        num_channels=1,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
    config.num_labels = 10
    adapters = LoraConfig(r=8, target_modules="all-linear", modules_to_save=["classifier"])
    model: nn.Module = get_peft_model(ViTForImageClassification(config), adapters)
    return model


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the mean loss, which the model computes itself."""
    found: Tensor = model(**batch).loss
    return found


client_app = make_client_app(
    load_data,
    build_model,
    loss=loss,
    reduction="mean",
    optimizer="adamw",
    optimizer_state="worker",
    fleet=Fleet((Device(40.0), Device(40.0), Device(20.0), Device(10.0))),
)
model = build_model()
adapters = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
size, whole = (sum(4 * p.numel() for p in values) for values in (adapters.values(), model.parameters()))
print(f"a message: {size / 1e6:.3f} MB of adapters; the whole model would be {whole / 1e6:.3f} MB")


def show(record: dict[str, Any], _: object) -> None:
    """Print a round."""
    if record["round"] % 20 == 0:
        done, seconds = record["minibatches"], record["virtual_seconds"]
        sent = record["uplink_bytes"] / WORKERS / 1e6
        loss = record["train_loss"]
        print(f"round {record['round']}: {seconds:.0f} s, loss {loss:.3f}, mini-batches {done}, {sent:.3f} MB each")


strategy = ALDSGD(
    "ring", work=NonBlocking(batch_size=128, minibatch_size=16), sgd=SGD(learning_rate=0.01), on_round=[show]
)
result = strategy.start(InlineGrid(client_app, WORKERS), ArrayRecord(adapters), num_rounds=ROUNDS)
assert result.arrays is not None
model.load_state_dict(result.arrays.to_torch_state_dict(), strict=False)
model.eval()
with torch.no_grad():
    accuracy = (model(pixel_values=IMAGES[1500:]).logits.argmax(1) == LABELS[1500:]).float().mean()
print(f"accuracy of the consensus model on images that no worker has: {accuracy:.3f}")
