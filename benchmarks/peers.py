"""What people would write without memgen, for comparison: a training loop, a sampler, searches for neighbors.

The training and the sampler follow the code that Kadkhodaie et al. (ICLR 2024) released: the same network, but the norm
as plain tensor operations, tensors in PyTorch's default memory format, and one image at a time in the sampler.
"""

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from memgen.models.networks import BiasFreeBatchNorm


class PlainNorm(nn.Module):
    """The authors' norm without bias, in plain tensor operations."""

    def __init__(self, norm: BiasFreeBatchNorm) -> None:
        super().__init__()
        self.gammas = nn.Parameter(norm.gammas.detach().clone())
        self.register_buffer("running_sd", norm.running_sd.clone())

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            sd = torch.sqrt(x.var(dim=(0, 2, 3), keepdim=True, unbiased=False) + 1e-5)
            with torch.no_grad():
                self.running_sd.copy_(0.9 * self.running_sd + 0.1 * sd)
        else:
            sd = self.running_sd
        return x / sd * self.gammas


def replaced(network: nn.Module, change: Callable[[nn.Module], nn.Module | None]) -> nn.Module:
    """A copy of a network, in which the modules for which `change` gives another are replaced."""
    made = copy.deepcopy(network)
    for module in list(made.modules()):
        for name, child in list(module.named_children()):
            other = change(child)
            if other is not None:
                setattr(module, name, other)
    return made


def plain(network: nn.Module) -> nn.Module:
    """The same network with plain norms, in PyTorch's default memory format."""
    made = replaced(network, lambda module: PlainNorm(module) if isinstance(module, BiasFreeBatchNorm) else None)
    return made.train(network.training).to(memory_format=torch.contiguous_format)


def convolutions_only(network: nn.Module) -> nn.Module:
    """The same network without norms and ReLU, to time its convolutions alone."""
    drop = (BiasFreeBatchNorm, nn.ReLU)
    return replaced(network, lambda module: nn.Identity() if isinstance(module, drop) else None)


class Pictures(Dataset):
    """Images (N, C, H, W) uint8, one at a time, as float32 in [0, 1]."""

    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Tensor:
        return self.pixels[index].float() / 255


def training(network: nn.Module, pixels: Tensor, batch_size: int, rate: float = 1e-3) -> Callable[[int], None]:
    """A training loop with Adam on noise levels u²; the result makes so many further steps."""
    network = plain(network).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)

    def batches():
        while True:
            yield from DataLoader(Pictures(pixels), batch_size=batch_size, shuffle=True, drop_last=True)

    endless = batches()

    def steps(count: int) -> None:
        for _ in range(count):
            clean = next(endless)
            noise = torch.rand(len(clean), 1, 1, 1).square() * torch.randn_like(clean)
            loss = nn.functional.mse_loss(network.residual(clean + noise), noise, reduction="sum") / len(clean)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return steps


def sample_singly(
    network: nn.Module, shape: tuple[int, ...], count: int, updates: int, h0: float = 0.01, beta: float = 0.1
) -> list[Tensor]:
    """Samples of stochastic reverse diffusion, each drawn by itself with so many updates, and denoised at the end."""
    made = []
    with torch.no_grad():
        for _ in range(count):
            y = torch.randn(1, *shape)
            for t in range(1, updates + 1):
                h = h0 * t / (1 + h0 * (t - 1))
                residual = network.residual(y)
                sigma = float(residual.norm()) / np.sqrt(y.numel())  # the authors' loop compares it with its end
                gamma = sigma * np.sqrt((1 - beta * h) ** 2 - (1 - h) ** 2)
                y = y - h * residual + gamma * torch.randn_like(y)
            made.append(y - network.residual(y))
    return made


def _flat(vectors: Tensor, squared: bool):
    import faiss  # after turns.prepare

    index = (faiss.IndexFlatL2 if squared else faiss.IndexFlatIP)(vectors.shape[1])
    index.add(vectors.numpy())
    return index


def by_product(queries: Tensor, references: Tensor, k: int) -> dict[str, Callable[[], Tensor]]:
    """The positions of the k references with the largest inner products, by several means."""
    flat = _flat(references, squared=False)
    return {
        "torch: product, topk": lambda: (queries @ references.T).topk(k).indices,
        "FAISS IndexFlatIP": lambda: torch.from_numpy(flat.search(queries.numpy(), k)[1]),
    }


def by_distance(queries: Tensor, references: Tensor, k: int) -> dict[str, Callable[[], Tensor]]:
    """The positions of the k references with the smallest Euclidean distances, by several means."""
    from sklearn.neighbors import NearestNeighbors

    flat = _flat(references, squared=True)
    brute = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(references.numpy())
    half = references.square().sum(dim=1) / 2
    return {
        "torch: product, topk": lambda: torch.addmm(half, queries, references.T, beta=-1).topk(k).indices,
        "torch: cdist, topk": lambda: torch.cdist(queries, references).topk(k, largest=False).indices,
        "FAISS IndexFlatL2": lambda: torch.from_numpy(flat.search(queries.numpy(), k)[1]),
        "scikit-learn, brute force": lambda: torch.from_numpy(brute.kneighbors(queries.numpy())[1]),
    }


def close_pairs(unit: Tensor, threshold: float) -> dict[str, Callable[[], object]]:
    """All pairs of unit vectors with a product above a threshold, among the vectors and those before them."""
    flat = _flat(unit, squared=False)

    def products():
        for start in range(0, len(unit), 2048):
            (unit[start : start + 2048] @ unit[: start + 2048].T > threshold).sum()

    return {"products of all pairs": products, "FAISS range_search": lambda: flat.range_search(unit.numpy(), threshold)}
