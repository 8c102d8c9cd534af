"""Networks that only teach: never in training mode, without gradients."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.linear import Linear as TimmLinear
from torch import Tensor, nn

from videokd.models.backbone import Network, module_dict, streams_of
from videokd.types import Batch

# What autocast computes in half precision, and what uses its weights for nothing else
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, Conv2dSame)
_LINEAR = (nn.Linear, TimmLinear)


def keep_weights_in(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Keeps the weights of convolutions and linear layers of a frozen network in the format that it computes in.

    Autocast otherwise converts them in every forward pass, as it remembers only weights that learn. Whatever autocast computes in
    float32 (norms, and layers that do more with their weights than to multiply by them) keeps its weights.

    Args:
        network: frozen, and from now on used within autocast to the same format only; changed in place.
        dtype: `Precision.dtype`; float32 changes nothing.

    Returns:
        The network.

    >>> keep_weights_in(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), torch.bfloat16)[0].weight.dtype
    torch.bfloat16
    """
    for module in network.modules():
        # torchvision's convolutions are subclasses without a forward of their own
        plain = any(isinstance(module, kind) and type(module).forward is kind.forward for kind in _CONVOLUTIONS)
        if plain or type(module) in _LINEAR:
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)
    return network


class Teachers(nn.Module):
    """Frozen networks, each seeing its own streams of the same batch.

    They stay in evaluation mode even when a module around them is put into training mode, so their BatchNorm buffers never change.

    Args:
        networks: {teacher: network}; their parameters stop requiring gradients.

    Raises:
        ConfigError: there are no teachers, or a name is not made of letters, digits and underscores.

    >>> from videokd.models.network_spec import NetworkSpec
    >>> teachers = Teachers({"iframe": Network(NetworkSpec(("iframe",), "test_resnet", 5, 32))})
    >>> teachers.train().training
    False
    """

    def __init__(self, networks: Mapping[str, Network]) -> None:
        super().__init__()
        self.networks = module_dict(networks, where="teachers")
        self.requires_grad_(False)
        self.eval()

    @property
    def streams(self) -> tuple[str, ...]:
        """All streams that some teacher needs, each once."""
        return streams_of(self.networks)

    def train(self, mode: bool = True) -> Teachers:
        """Keeps evaluation mode, for any argument."""
        super().train(False)
        return self

    @torch.no_grad()
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The logits of each teacher for a batch.

        Args:
            batch: with the streams of every teacher.

        Returns:
            {teacher: [B, K]} logits, without gradients.

        Raises:
            ConfigError: a stream is missing.
        """
        return {name: network(batch.streams) for name, network in self.networks.items()}

    @torch.no_grad()
    def with_features(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The logits of each teacher for a batch, and its pooled deepest features, from one pass.

        Args:
            batch: with the streams of every teacher.

        Returns:
            {teacher: [B, K]} logits; {teacher: [B, D]} features, D its own; both without gradients.

        Raises:
            ConfigError: a stream is missing.
        """
        both = {name: network(batch.streams, with_features=True) for name, network in self.networks.items()}
        return {name: logits for name, (logits, _) in both.items()}, {name: found for name, (_, found) in both.items()}

    @property
    def feature_widths(self) -> dict[str, int]:
        """{teacher: the number of its features}.

        Raises:
            ConfigError: a backbone does not give them.
        """
        return {name: network.feature_width for name, network in self.networks.items() if isinstance(network, Network)}
