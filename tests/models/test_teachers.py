"""Teachers never change."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.small_networks import random_streams, spec
from videokd.errors import ConfigError
from videokd.models.backbone import Network
from videokd.models.teachers import Teachers
from videokd.types import Batch


def batch(*names, device="cpu"):
    return Batch(random_streams(*names), torch.tensor([0, 1]), ("a", "b")).to(device)


def test_buffers_are_bit_identical_after_train_on_the_whole():
    torch.manual_seed(0)
    teachers = Teachers({"appearance": Network(spec("iframe")), "motion": Network(spec("motion"))})
    whole = nn.ModuleDict({"teachers": teachers, "student": Network(spec("motion"))})
    before = {name: values.clone() for name, values in teachers.state_dict().items()}
    whole.train()
    assert whole["student"].training
    assert not any(module.training for module in teachers.modules())
    first, again = (teachers(batch("iframe", "motion")) for _ in range(2))
    assert list(first) == ["appearance", "motion"]
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(torch.equal(values, before[name]) for name, values in teachers.state_dict().items())


def test_no_gradient_reaches_them():
    teachers = Teachers({"iframe": Network(spec("iframe"))})
    assert not any(parameter.requires_grad for parameter in teachers.parameters())
    teachers.requires_grad_(True)
    assert not teachers(batch("iframe"))["iframe"].requires_grad


def test_their_target_can_be_saved_for_backward():
    logits = Teachers({"iframe": Network(spec("iframe"))})(batch("iframe"))["iframe"]
    student = torch.ones(2, 5, requires_grad=True)
    (student * logits).sum().backward()
    assert torch.equal(student.grad, logits)


def test_streams_are_the_union():
    teachers = Teachers({"a": Network(spec("motion")), "b": Network(spec("iframe", "motion"))})
    assert teachers.streams == ("motion", "iframe")


def test_wrong_teachers_are_refused():
    with pytest.raises(ConfigError, match="teachers: none are given"):
        Teachers({})
    with pytest.raises(ConfigError, match="needs motion, but was given iframe"):
        Teachers({"motion": Network(spec("motion"))})(batch("iframe"))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_on_cuda_they_are_close_to_float32(dtype):
    torch.manual_seed(0)
    teachers = Teachers({"iframe": Network(spec("iframe"))}).cuda()
    given = batch("iframe", device="cuda")
    exact = teachers(given)["iframe"]
    with torch.autocast("cuda", dtype=dtype):
        found = teachers(given)["iframe"]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact, rtol=0.05, atol=0.05)
