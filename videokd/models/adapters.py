"""From a student's features to the width of its teachers': linear maps, for training only."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from videokd.models.backbone import Network, module_dict
from videokd.models.students import Students


class Adapters(nn.Module):
    """One student's linear maps, one to each teacher."""

    def __init__(self, width: int, teacher_widths: Mapping[str, int]) -> None:
        super().__init__()
        self.by_teacher = module_dict(
            {name: nn.Linear(width, wide) for name, wide in teacher_widths.items()}, where="teachers"
        )

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """[B, D] to {teacher: [B, the teacher's width]}."""
        return {name: adapter(features) for name, adapter in self.by_teacher.items()}


def add_adapters(students: Students, teacher_widths: Mapping[str, int], *, seed: int) -> None:
    """Gives every student an adapter to each teacher's features, before its optimizer is made.

    Args:
        students: changed in place; their own weights stay as they are.
        teacher_widths: {teacher: the number of its features}.
        seed: of the run; the global random state is left as it was.

    Raises:
        ConfigError: there are no teachers, or a student's backbone does not give its features.

    >>> from videokd.models.network_spec import NetworkSpec
    >>> from videokd.models.students import PredictionSpec, build_students
    >>> students = build_students({"a": NetworkSpec(("motion",), "test_resnet", 2, 32)}, PredictionSpec("xy", 3), seed=0)
    >>> add_adapters(students, {"iframe": 512}, seed=0)
    >>> clips = {"motion": torch.zeros(4, 3, 2, 32, 32, dtype=torch.uint8)}
    >>> students(clips, with_features=True)["a"].adapted["iframe"].shape
    torch.Size([4, 512])
    """
    for index, (name, network) in enumerate(students.members.items()):
        assert isinstance(network, Network)
        with torch.random.fork_rng(devices=[]):
            # The third number sets these weights apart from the students', which are seeded by the first two.
            torch.default_generator.manual_seed(int(np.random.SeedSequence((seed, index, 1)).generate_state(1)[0]))
            students.adapters[name] = Adapters(network.feature_width, teacher_widths)
