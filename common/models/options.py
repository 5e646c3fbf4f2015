"""Options of the network."""

from dataclasses import dataclass
from typing import Annotated, Literal

from common.errors import UsageError
from common.models import MODELS, NETWORKS, without
from common.options import PathText, Range


@dataclass(frozen=True)
class ModelOptions:
    """Network."""

    model: Literal[*MODELS] = "wrn"  # type: ignore[valid-type]
    """network: Wide ResNet, small CNNs, Vision Transformers; a text implies the transformer (EOA: wrn; vit-b16 in EOA-ViT)"""
    depth: Annotated[int, Range(most=10**4)] = 16
    """layers of the Wide ResNet, blocks of vit-tiny and transformer (EOA: 22, called 16 there)"""
    width: Annotated[int, Range(most=10**4)] = 1
    """widening factor; of vit-tiny and transformer: number of heads of 32 dimensions (EOA: 8)"""
    dropout: Annotated[float, Range(0, below=1)] = 0.0
    """dropout inside the blocks; of Vision Transformers after the embeddings and in the MLPs (EOA: 0; 0.1 in EOA-ViT)"""
    initialisation: Literal["fan-out", "fan-in"] = "fan-out"
    """initial weights of the Wide ResNet: He et al. by fan-out, or by fan-in with a zero head (EOA: fan-in)"""
    pretrained: PathText = ""
    """checkpoint of a Vision Transformer in Google's format (.npz); none: train from scratch"""

    def refuse(self, given: set[str]) -> None:
        """Refuse options that the network does not have. Raises UsageError."""
        for name in sorted(given.intersection(without(self.model))):
            raise UsageError(f"--{name} is not an option of --model {self.model}: leave it out, or take another network")
        if self.pretrained and self.model not in NETWORKS:
            raise UsageError(f"--pretrained is for {', '.join(NETWORKS)}, not for --model {self.model}")
