"""Non-blocking training with neighbours: torchrun --standalone --nproc-per-node 3 examples/train_peer.py."""

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from echelon.peer import Peer
from echelon.strategies import DPSGD, NonBlocking

torch.manual_seed(0)
dist.init_process_group("gloo")
digits = load_digits()
inputs, labels = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
mine = slice(dist.get_rank(), 1500, dist.get_world_size())
loader = DataLoader(TensorDataset(inputs[mine], labels[mine]), batch_size=20, shuffle=True)
model: nn.Module = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
peer = Peer(DPSGD("ring", work=NonBlocking(batch_size=500, minibatch_size=20)), model, optimizer)

for _ in range(10):
    for x, y in peer.minibatches(loader):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
    peer.mix(loss)

correct = (model(inputs[1500:]).argmax(1) == labels[1500:]).float().mean()
print(f"worker {dist.get_rank()}: test accuracy {correct:.3f}")
dist.destroy_process_group()
