"""The authors' algorithm in PyTorch, written to be a fair rival: what `throughput.py` races against.

As in the authors' code (Algorithm 1 of the paper): the weights of a network are one flat vector; the forward pass keeps
every step's weights and gradient with its graph (`create_graph=True`); the backward pass goes through the steps by hand, with
one Hessian-vector product each for weights, images and learning rate together; networks are a Python loop. Eager mode, all
threads. Nothing here imports JAX.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn import functional


class Layer(NamedTuple):
    """One linear layer: its name in ddjax, and its kernel in PyTorch's layout, [out, in, k, k] or [out, in]."""

    name: str
    kernel: tuple[int, ...]


class Norm(NamedTuple):
    """The scale, from ones, and the bias, from zeros, of a norm's channels."""

    name: str
    channels: int


class LeNet:
    """ddjax.models.lenet on inputs [b, C, H, W], weights from a flat vector."""

    def __init__(self, channels: int = 1, size: int = 28, num_classes: int = 10):
        self.padding = 2 if size < 32 else 0
        side = ((size + 2 * self.padding - 4) // 2 - 4) // 2
        self.flat_shape = (16, side, side)
        self.layers = (
            Layer("conv1", (6, channels, 5, 5)),
            Layer("conv2", (16, 6, 5, 5)),
            Layer("dense1", (120, 16 * side * side)),
            Layer("dense2", (84, 120)),
            Layer("dense3", (num_classes, 84)),
        )

    def __call__(self, weights: Sequence[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        w1, b1, w2, b2, w3, b3, w4, b4, w5, b5 = weights
        x = functional.max_pool2d(functional.relu(functional.conv2d(x, w1, b1, padding=self.padding)), 2)
        x = functional.max_pool2d(functional.relu(functional.conv2d(x, w2, b2)), 2)
        x = functional.relu(functional.linear(x.flatten(1), w3, b3))
        x = functional.relu(functional.linear(x, w4, b4))
        return functional.linear(x, w5, b5)


class AlexCifarNet:
    """ddjax.models.alexnet.AlexCifarNet on inputs [b, C, H, W] of 32x32, weights from a flat vector."""

    def __init__(self, channels: int = 3, size: int = 32, num_classes: int = 10):
        side = math.ceil(size / 4)
        self.flat_shape = (64, side, side)
        self.layers = (
            Layer("conv1", (64, channels, 5, 5)),
            Layer("conv2", (64, 64, 5, 5)),
            Layer("dense1", (384, 64 * side * side)),
            Layer("dense2", (192, 384)),
            Layer("dense3", (num_classes, 192)),
        )

    def __call__(self, weights: Sequence[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        w1, b1, w2, b2, w3, b3, w4, b4, w5, b5 = weights
        x = functional.local_response_norm(
            functional.max_pool2d(functional.relu(functional.conv2d(x, w1, b1, padding=2)), 3, 2, 1),
            4,
            0.001 / 9.0,
            0.75,
            1,
        )
        x = functional.max_pool2d(
            functional.local_response_norm(
                functional.relu(functional.conv2d(x, w2, b2, padding=2)), 4, 0.001 / 9.0, 0.75, 1
            ),
            3,
            2,
            1,
        )
        x = functional.relu(functional.linear(x.flatten(1), w3, b3))
        x = functional.relu(functional.linear(x, w4, b4))
        return functional.linear(x, w5, b5)


class ConvNet:
    """ddjax.models.convnet.ConvNet of width 128 and depth 3 on inputs [b, C, H, W], weights from a flat vector."""

    def __init__(self, channels: int = 3, size: int = 32, num_classes: int = 10):
        self.flat_shape = (128, size // 8, size // 8)
        layers: list[Layer | Norm] = []
        for i, before in enumerate((channels, 128, 128), start=1):
            layers += [Layer(f"conv{i}", (128, before, 3, 3)), Norm(f"norm{i}", 128)]
        self.layers = (*layers, Layer("dense", (num_classes, 128 * (size // 8) ** 2)))

    def __call__(self, weights: Sequence[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        for i in range(0, 12, 4):
            kernel, bias, scale, shift = weights[i : i + 4]
            x = functional.conv2d(x, kernel, bias, padding=1)
            x = functional.group_norm(x, len(scale), scale, shift)
            x = functional.avg_pool2d(functional.relu(x), 2)
        return functional.linear(x.flatten(1), *weights[12:])


NETWORKS = {"lenet": LeNet, "alexcifar": AlexCifarNet, "convnet": ConvNet}


class Reference:
    """The outer step of the authors' algorithm for one network architecture, on `device`."""

    def __init__(
        self, network: LeNet | AlexCifarNet | ConvNet, *, device: str = "cpu", dtype: torch.dtype = torch.float32
    ):
        self.network, self.device, self.dtype = network, device, dtype
        self.shapes = [
            shape
            for layer in network.layers
            for shape in ([(layer.channels,)] * 2 if isinstance(layer, Norm) else (layer.kernel, layer.kernel[:1]))
        ]
        self.sizes = [math.prod(shape) for shape in self.shapes]

    def apply(self, weights: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        parts = [part.view(shape) for part, shape in zip(weights.split(self.sizes), self.shapes, strict=True)]
        return self.network(parts, inputs)

    def init(self) -> torch.Tensor:
        """Fresh weights, Xavier normal, biases zero, scales one: one flat vector."""
        parts = []
        for layer in self.network.layers:
            if isinstance(layer, Norm):
                scale = torch.ones(layer.channels, device=self.device, dtype=self.dtype)
                parts += [scale, torch.zeros_like(scale)]
                continue
            kernel = torch.empty(layer.kernel, device=self.device, dtype=self.dtype)
            parts += [torch.nn.init.xavier_normal_(kernel).flatten(), kernel.new_zeros(layer.kernel[0])]
        return torch.cat(parts)

    def from_ddjax(self, params) -> torch.Tensor:
        """ddjax's weights (NumPy leaves; channels last, kernels [k, k, in, out]) as one flat vector."""
        parts = []
        for layer in self.network.layers:
            if isinstance(layer, Norm):
                parts += [torch.tensor(params[layer.name][part]) for part in ("scale", "bias")]
                continue
            kernel, bias = (torch.tensor(params[layer.name][part]) for part in ("kernel", "bias"))
            if layer.name in ("dense1", "dense"):  # ddjax flattens [H, W, C], PyTorch [C, H, W]
                channels, *side = self.network.flat_shape
                kernel = kernel.view(*side, channels, -1).permute(2, 0, 1, 3).flatten(0, 2)
            kernel = kernel.permute(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T
            parts += [kernel.reshape(-1), bias]
        return torch.cat(parts).to(self.device, self.dtype)

    def meta_gradient(
        self,
        weights: Sequence[torch.Tensor],
        images: torch.Tensor,
        labels: torch.Tensor,
        log_lrs: torch.Tensor,
        inputs: torch.Tensor,
        classes: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Mean over networks of the loss after the inner loop, and its gradients for images and log learning rates.

        weights: one flat vector a network. images [S, M, C, H, W], labels [S, M], log_lrs [E, S]: the distilled data.
        inputs [b, C, H, W], classes [b]: the real batch.
        """
        lrs = log_lrs.exp()
        grad_images, grad_lrs, total = torch.zeros_like(images), torch.zeros_like(lrs), 0.0
        steps = [(e, s) for e in range(lrs.shape[0]) for s in range(lrs.shape[1])]
        for theta in weights:
            theta = theta.detach().requires_grad_()
            taken = []
            for e, s in steps:
                data = images[s].detach().requires_grad_()
                lr = lrs[e, s].detach().requires_grad_()
                loss = functional.cross_entropy(self.apply(theta, data), labels[s])
                (move,) = torch.autograd.grad(loss, theta, lr, create_graph=True)
                taken.append((theta, data, lr, move))
                theta = (theta - move).detach().requires_grad_()
            loss = functional.cross_entropy(self.apply(theta, inputs), classes)
            (cotangent,) = torch.autograd.grad(loss, theta)
            for (e, s), (theta, data, lr, move) in zip(reversed(steps), reversed(taken), strict=True):
                products = torch.autograd.grad(move, (theta, data, lr), -cotangent)
                cotangent = cotangent + products[0]
                grad_images[s] += products[1]
                grad_lrs[e, s] += products[2]
            total = total + loss.detach()
        count = len(weights)
        return total / count, grad_images / count, grad_lrs * lrs / count


class Trainer:
    """Whole outer steps on a data set held on the device, as `ddjax distill` takes them: batch, networks, gradient, Adam."""

    def __init__(
        self, reference: Reference, images, labels, log_lrs, real_inputs, real_classes, *, batch_size, num_nets
    ):
        """images [S, M, C, H, W], labels [S, M], log_lrs [E, S], real_inputs uint8 [n, C, H, W], real_classes [n]: NumPy."""
        self.reference, self.batch_size, self.num_nets = reference, batch_size, num_nets
        device, dtype = reference.device, reference.dtype
        self.images = torch.tensor(images, device=device, dtype=dtype)
        self.log_lrs = torch.tensor(log_lrs, device=device, dtype=dtype)
        self.labels = torch.tensor(labels, device=device).long()
        self.real_inputs = torch.tensor(real_inputs, device=device)
        self.real_classes = torch.tensor(real_classes, device=device).long()
        self.optimizer = torch.optim.Adam([self.images, self.log_lrs], lr=0.01, betas=(0.5, 0.999))

    def step(self) -> float:
        index = torch.randint(len(self.real_classes), (self.batch_size,), device=self.reference.device)
        inputs = (self.real_inputs[index].to(self.reference.dtype) / 255 - 0.5) / 0.5
        weights = [self.reference.init() for _ in range(self.num_nets)]
        loss, grad_images, grad_log_lrs = self.reference.meta_gradient(
            weights, self.images, self.labels, self.log_lrs, inputs, self.real_classes[index]
        )
        self.images.grad, self.log_lrs.grad = grad_images, grad_log_lrs
        self.optimizer.step()
        return float(loss)
