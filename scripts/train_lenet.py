"""Train LeNet with a loop written out by hand, on a GPU workstation or a CPU.

python scripts/train_lenet.py --device cuda --data digits --epochs 5
"""

import click
import numpy as np

import gpucnn
from gpucnn import data, models, nn, optim


@click.command(help=__doc__)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N, or auto: the GPU if it works.")
@click.option("--data", "source", default="digits", show_default=True, help="digits, a folder of IDX files, an .npz.")
@click.option("--epochs", default=5, show_default=True, help="Passes over the training images.")
@click.option("--batch-size", default=64, show_default=True, help="Images per step.")
@click.option("--lr", default=5e-3, show_default=True, help="Highest learning rate of the one-cycle schedule.")
@click.option("--seed", default=0, show_default=True, help="Of initial weights and shuffling.")
def main(device: str, source: str, epochs: int, batch_size: int, lr: float, seed: int) -> None:
    gpucnn.use(device)
    gpucnn.manual_seed(seed)
    splits = data.load(source)
    train, test = (part[np.arange(len(part))] for part in (splits.train, splits.test))  # images and labels
    mean, std = train[0].mean() / 255, train[0].std() / 255

    def batch(part, chosen):
        images, labels = part
        pixels = (images[chosen] / np.float32(255) - np.float32(mean)) / np.float32(std)
        return gpucnn.tensor(pixels), gpucnn.tensor(labels[chosen])

    net, loss_fn = models.lenet(), nn.CrossEntropyLoss()
    optimizer = optim.Adam(net.parameters(), lr=lr)
    batches = -(-len(train[1]) // batch_size)
    schedule = optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=epochs * batches)
    for epoch in range(1, epochs + 1):
        order = np.random.default_rng([seed, epoch]).permutation(len(train[1]))
        for chosen in np.array_split(order, batches):
            x, y = batch(train, chosen)
            optimizer.zero_grad()
            loss = loss_fn(net(x), y)
            loss.backward()
            optimizer.step()
            schedule.step()
        right = 0
        with gpucnn.no_grad():
            for chosen in np.array_split(np.arange(len(test[1])), 10):
                x, y = batch(test, chosen)
                right += (net(x).argmax(1) == y).sum().item()
        print(f"epoch {epoch}: loss {loss.item():.4f}, test accuracy {right / len(test[1]):.4f}")


if __name__ == "__main__":
    main()
