"""A model as one contiguous buffer.

    state     [ parameters: P floats | floating-point buffers (batch-norm statistics): B floats ]
    gradient  [ P floats | 1 float: the finite flag of `comm.finite_mean_` ]

The module's parameters, buffers and gradients become views into these: averaging is one all-reduce, an exchange needs no
packing, a perturbation is two vector operations and a checkpoint is one array. Both buffers are row-major, whatever the memory
format of the activations.
"""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from common.parallel.comm import Group


class FlatModel:
    """A module's float32 parameters, gradients and floating buffers in contiguous storage; the module is changed in place.

    Attributes:
        module: the module; it uses the flat buffers.
        state: shape (P + B,), float32; parameters first, then floating buffers, each in the module's own order.
        parameters: shape (P,), view of `state`. Its `.grad` is `gradient`, so torch optimizers can step on it as one tensor.
        buffers: shape (B,), view of `state`; frozen parameters (requires_grad False) come first.
        gradient: shape (P,), view of `gradient_and_flag`.
        gradient_and_flag: shape (P + 1,).

    Raises ValueError if no parameter is trainable, a parameter or floating buffer is not float32, or they are on several
    devices.
    """

    def __init__(self, module: nn.Module) -> None:
        tensors = [p for p in module.parameters() if p.requires_grad]
        frozen = [p for p in module.parameters() if not p.requires_grad]  # exchanged, but never updated or decayed
        everything = [*tensors, *frozen, *(b for b in module.buffers() if b.is_floating_point())]
        _check(everything)
        size, device = sum(t.numel() for t in tensors), tensors[0].device
        self.module = module
        self.state = torch.empty(sum(t.numel() for t in everything), device=device)
        self.buffers = self.state[size:]
        self.gradient_and_flag = torch.zeros(size + 1, device=device)
        self.gradient = self.gradient_and_flag[:size]
        self.parameters = nn.Parameter(self.state[:size])
        self.parameters.grad = self.gradient
        for tensor, view in zip(everything, _slices(self.state, everything), strict=True):
            tensor.data = view.copy_(tensor.data)
        self._views = list(zip(tensors, _slices(self.gradient, tensors), strict=True))
        for tensor, view in self._views:
            tensor.grad = view

    @property
    def device(self) -> torch.device:
        """Device of the buffers."""
        return self.state.device

    def views(self) -> list[tuple[Tensor, Tensor]]:
        """(weights, gradient) of every trainable parameter in its own shape, both views of the flat buffers."""
        return [(tensor.data, view) for tensor, view in self._views]

    def zero_gradient(self) -> None:
        """Set the flat gradient to zero (backward passes accumulate)."""
        self.gradient.zero_()

    def collect_gradient(self) -> None:
        """Copy gradients that `zero_grad(set_to_none=True)` detached from the flat buffer back into it."""
        for tensor, view in self._views:
            if tensor.grad is view:
                continue
            view.zero_() if tensor.grad is None else view.copy_(tensor.grad)
            tensor.grad = view

    def counters(self) -> dict[str, Tensor]:
        """Buffers that are not floating-point (batch norm's `num_batches_tracked`): kept in the module, never exchanged."""
        return {name: b for name, b in self.module.named_buffers() if not b.is_floating_point()}

    def is_finite(self) -> bool:
        """Whether all parameters and floating buffers of this worker are finite."""
        return bool(torch.isfinite(self.state).all())

    def sha256(self) -> str:
        """Digest of the little-endian float32 parameters followed by the floating buffers."""
        return hashlib.sha256(self.state.detach().cpu().numpy().astype("<f4", copy=False).tobytes()).hexdigest()


def share_model(module: nn.Module, world: "Group") -> FlatModel:
    """The module in flat buffers, with rank 0's weights on every rank. Collective over the world."""
    model = FlatModel(module)
    world.broadcast_(model.state.detach(), root=0)
    return model


def _check(tensors: Sequence[Tensor]) -> None:
    if not tensors:
        raise ValueError("the model has no trainable parameters")
    odd = {str(t.dtype) for t in tensors if t.dtype != torch.float32}
    if odd:
        raise ValueError(f"the flat buffer is float32, but the model holds {sorted(odd)}: call model.float() first")
    devices = {str(t.device) for t in tensors}
    if len(devices) > 1:
        raise ValueError(f"the model is on several devices ({sorted(devices)}): move it to one first")


def _slices(storage: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Consecutive slices of the storage as views, each in the shape of one tensor."""
    parts = storage.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]
