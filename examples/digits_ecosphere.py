"""The same script as a member of an ecosphere; `diff examples/digits.py examples/digits_ecosphere.py` shows the changes.

mpirun --oversubscribe --bind-to none -np 4 python examples/digits_ecosphere.py
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset, random_split

from ecosphere import join, launch

EPOCHS, BATCH, RATE = 12, 64, 0.05


def load():
    """Training, validation and test images."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    everything = TensorDataset(images, torch.tensor(digits.target))
    return random_split(everything, [1200, 237, 360], torch.Generator().manual_seed(0))


def build():
    """A small convolutional network."""
    layers = [nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64 * 4 * 4, 10))


@torch.no_grad()
def accuracy(model, dataset):
    """Fraction of the images that the model recognises."""
    model.eval()
    images, labels = next(iter(DataLoader(dataset, len(dataset))))
    return (model(images).argmax(1) == labels).float().mean().item()


def main():
    """Train for a few epochs and report."""
    torch.manual_seed(0)
    train, validation, test = load()
    model = build()
    ecosphere = join(model, "auto", RATE, EPOCHS, BATCH)
    loader = DataLoader(Subset(train, ecosphere.shard(len(train))), ecosphere.share_of(BATCH), shuffle=True, drop_last=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9)
    for epoch in range(EPOCHS):
        model.train()
        optimizer.param_groups[0]["lr"] = ecosphere.rate
        for images, labels in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            ecosphere.average_gradient()
            optimizer.step()
        if not ecosphere.end_round(epoch, accuracy(model, validation)).finite:
            optimizer.state.clear()
        launch.say(f"epoch {epoch + 1}: validation accuracy {accuracy(model, validation):.3f}")
    launch.say(f"test accuracy {accuracy(model, test):.3f}")


if __name__ == "__main__":
    launch.run(main)
