"""Learning rates against PyTorch's own schedulers, averages against plain arithmetic."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from videokd.errors import ConfigError, DataError
from videokd.training.schedule import EMA, Schedule, build_optimizer, load_optimizer, set_learning_rate


def rates_of_pytorch(make_scheduler, steps):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    scheduler, rates = make_scheduler(optimizer), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_cosine_equals_pytorch():
    expected = rates_of_pytorch(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 20), 20)
    assert [Schedule(total_steps=20, base=0.3).rate(s) for s in range(20)] == pytest.approx(expected)


def test_step_equals_pytorch():
    expected = rates_of_pytorch(lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [5, 12], gamma=0.2), 20)
    found = [Schedule(total_steps=20, base=0.3, kind="step", milestones=(5, 12), factor=0.2).rate(s) for s in range(20)]
    assert found == pytest.approx(expected)


def test_warmup_is_linear_and_ends_at_base():
    rates = [Schedule(total_steps=10, base=0.4, warmup_steps=4).rate(s) for s in range(10)]
    assert rates[:5] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])
    assert rates == sorted(rates[:4]) + sorted(rates[4:], reverse=True)


def test_past_the_end_the_rate_stays():
    assert Schedule(total_steps=10, base=0.4).rate(50) == pytest.approx(0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"total_steps": 0}, "total_steps 0"),
        ({"warmup_steps": 10}, "warmup_steps 10"),
        ({"kind": "linear"}, "schedule is 'linear'"),
        ({"milestones": [5, 3]}, r"milestones are \[5, 3\]"),
    ],
)
def test_wrong_settings_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        Schedule(**({"total_steps": 10, "base": 0.1} | changes))


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_groups_keep_their_own_rate_and_decay(name):
    body, head = nn.Linear(2, 2), nn.Linear(2, 2)
    groups = [
        {"params": list(body.parameters()), "lr_factor": 0.01, "weight_decay": 1e-4},
        {"params": list(head.parameters())},
    ]
    optimizer = build_optimizer(groups, name=name, learning_rate=0.5)
    set_learning_rate(optimizer, 0.2)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.002, 0.2])
    assert [group["weight_decay"] for group in optimizer.param_groups] == [1e-4, 0]
    set_learning_rate(optimizer, 0.4)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.004, 0.4])


def trained(optimizer, weights, *, steps, scaler=None, infinite=()):
    """A weight after steps on made-up gradients."""
    for step in steps:
        weights.grad = torch.full_like(weights, math.inf if step in infinite else 0.1 * step)
        if scaler is None:
            optimizer.step()
            continue
        scaler.scale(torch.zeros(1))
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("fused", [False, True])
def test_a_run_resumes_with_other_kernels(name, fused):
    kept, moved = (nn.Parameter(torch.arange(4.0)) for _ in range(2))
    whole = build_optimizer([{"params": [kept], "weight_decay": 0.1}], name=name, learning_rate=0.5, fused=fused)
    trained(whole, kept, steps=range(1, 7))

    before = build_optimizer([{"params": [moved], "weight_decay": 0.1}], name=name, learning_rate=0.5, fused=fused)
    trained(before, moved, steps=range(1, 4))
    after = build_optimizer([{"params": [moved], "weight_decay": 0.1}], name=name, learning_rate=0.5, fused=not fused)
    load_optimizer(after, before.state_dict())
    assert after.param_groups[0]["fused"] is (None if fused else True)
    trained(after, moved, steps=range(4, 7))
    torch.testing.assert_close(moved, kept)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_one_kernel_leaves_out_steps_whose_gradients_are_infinite(name):
    """A gradient scaler passes it the flag, on whatever state it resumed."""
    weights, expected = (nn.Parameter(torch.arange(4.0)) for _ in range(2))
    plain = build_optimizer([{"params": [expected]}], name=name, learning_rate=0.5)
    trained(plain, expected, steps=(1, 2, 4))

    before = build_optimizer([{"params": [weights]}], name=name, learning_rate=0.5)
    trained(before, weights, steps=(1,))
    fused = build_optimizer([{"params": [weights]}], name=name, learning_rate=0.5, fused=True)
    load_optimizer(fused, before.state_dict())
    scaler = torch.amp.GradScaler("cpu", init_scale=1.0, growth_interval=1000, backoff_factor=0.999999)
    trained(fused, weights, steps=(2, 3, 4), scaler=scaler, infinite=(3,))
    torch.testing.assert_close(weights, expected, rtol=1e-4, atol=1e-5)


def test_sgd_is_nesterov_and_adam_takes_epsilon():
    groups = [{"params": [nn.Parameter(torch.zeros(1))]}]
    assert build_optimizer(groups, name="sgd", learning_rate=1.0).param_groups[0]["nesterov"]
    assert build_optimizer(groups, name="adam", learning_rate=1.0, epsilon=1e-3).param_groups[0]["eps"] == 1e-3
    with pytest.raises(ConfigError, match="optimizer is 'lion'"):
        build_optimizer(groups, name="lion", learning_rate=1.0)


def test_ema_equals_plain_arithmetic():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    ema = EMA(model, decay=0.15)
    expected = {name: values.double().clone() for name, values in model.state_dict().items()}
    for update in range(5):
        model(torch.randn(8, 3, generator=torch.Generator().manual_seed(update)))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(update + 1)
        ema.update(model)
        decay = min(0.15, (1 + update) / (10 + update))
        for name, values in model.state_dict().items():
            floating = values.is_floating_point()
            expected[name] = decay * expected[name] + (1 - decay) * values if floating else values.double()
    assert ema.average["1.num_batches_tracked"].item() == 5
    for name, values in ema.average.items():
        torch.testing.assert_close(values.double(), expected[name], rtol=1e-5, atol=1e-6)


def test_ema_copies_to_a_model_and_does_not_follow_it():
    model, other = nn.Linear(2, 2), nn.Linear(2, 2)
    ema = EMA(model, decay=0.9)
    start = model.weight.detach().clone()
    with torch.no_grad():
        model.weight.add_(1)
    ema.copy_to(other)
    assert torch.equal(other.weight, start)
    with torch.no_grad():
        other.weight.add_(1)
    assert torch.equal(ema.average["weight"], start)


def test_ema_resumes():
    model, ema = nn.Linear(2, 2), None
    ema = EMA(model, decay=0.9)
    ema.update(model)
    resumed = EMA(nn.Linear(2, 2), decay=0.9)
    resumed.load_state_dict(ema.state_dict())
    assert resumed.num_updates == 1
    assert torch.equal(resumed.average["weight"], ema.average["weight"])


def test_ema_refuses_wrong_arguments():
    for decay in (-0.1, 1.0, math.nan):
        with pytest.raises(ConfigError, match="decay is"):
            EMA(nn.Linear(2, 2), decay=decay)
    state = EMA(nn.Linear(3, 2), decay=0.9).state_dict()
    with pytest.raises(DataError, match=r"another architecture: weight is \[2, 3\] instead of \[2, 2\]"):
        EMA(nn.Linear(2, 2), decay=0.9).load_state_dict(state)


def test_fused_sgd_begins_with_momentum_zero_and_steps_like_the_plain_one() -> None:
    """PyTorch's own buffers are uninitialised after a first step that a gradient scaler leaves out."""
    found = []
    for fused in (False, True):
        weight = nn.Parameter(torch.ones(4))
        optimizer = build_optimizer([{"params": [weight]}], name="sgd", learning_rate=0.1, fused=fused)
        if fused:
            assert torch.equal(optimizer.state[weight]["momentum_buffer"], torch.zeros(4))
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
        for factor in (float("inf"), 1.0, 2.0):
            optimizer.zero_grad()
            scaler.scale((weight * factor).sum()).backward()
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
        found.append(weight.detach())
    torch.testing.assert_close(*found)
