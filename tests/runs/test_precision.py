"""Which precision a run computes in, on GPUs that are made up: nothing here needs one."""

from __future__ import annotations

import copy
import warnings
from contextlib import suppress
from dataclasses import replace

import pytest
import torch
import yaml

from videokd.errors import ConfigError
from videokd.runs import session
from videokd.runs.checkpoint import save_checkpoint
from videokd.runs.device import Precision, pick_precision
from videokd.runs.ranks import Ranks
from videokd.runs.run_folder import RunFolder
from videokd.runs.run_settings import Teach
from videokd.runs.session import training_session
from videokd.runs.trained_on import TrainedOn

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
TRAINED_ON = TrainedOn((("a" * 64, "b" * 64, 0),), (), frozenset(), {}, ("wave", "clap"), True)


@pytest.fixture(params=["ampere", "turing"])
def gpu(request, monkeypatch):
    """A GPU as PyTorch describes it: Ampere and later have bf16; Turing has not, and PyTorch emulates it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"NVIDIA {request.param}")
    monkeypatch.setattr(
        torch.cuda,
        "is_bf16_supported",
        lambda including_emulation=True: including_emulation or request.param == "ampere",
    )
    return request.param


def formats():
    cudnn = torch.backends.cudnn
    return [part.fp32_precision for part in (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn)]


@pytest.mark.parametrize("gpu", ["ampere"], indirect=True)
def test_a_gpu_with_bf16_has_every_precision(gpu, capsys):
    chosen = {name: pick_precision(name, CUDA) for name in ("auto", "fp32", "tf32", "bf16", "fp16")}
    assert {name: each.name for name, each in chosen.items()} == {
        "auto": "bf16",
        "fp32": "fp32",
        "tf32": "tf32",
        "bf16": "bf16",
        "fp16": "fp16",
    }
    assert {each.device for each in chosen.values()} == {CUDA}
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("gpu", ["turing"], indirect=True)
def test_a_gpu_that_emulates_bf16_computes_in_fp16_and_says_so_once(gpu, capsys):
    assert pick_precision("auto", CUDA).name == "fp16"
    assert pick_precision("fp32", CUDA).name == "fp32"
    assert capsys.readouterr().err == ""
    assert pick_precision("bf16", CUDA).name == "fp16"
    assert capsys.readouterr().err == "precision is bf16, which NVIDIA turing does not have: fp16 is used.\n"
    assert pick_precision("tf32", CUDA).name == "fp32"
    assert capsys.readouterr().err == "precision is tf32, which NVIDIA turing does not have: fp32 is used.\n"


def test_networks_that_only_predict_compute_in_a_format_that_leaves_their_answers_as_they_are(gpu, capsys):
    assert pick_precision("auto", CUDA, training=False).name == {"ampere": "tf32", "turing": "fp32"}[gpu]
    assert pick_precision("auto", CPU, training=False).name == "fp32"
    assert pick_precision("bf16", CPU, training=False).name == "bf16"
    assert capsys.readouterr().err == ""


def test_a_prepared_network_computes_the_same_within_its_format():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Conv2d(8, 2, 3)).eval()
    pictures = torch.rand(2, 3, 9, 9)
    with torch.no_grad():
        expected = network(pictures)
        for name, tolerance in (("fp32", 1e-5), ("bf16", 2e-2)):
            precision = Precision(name, CPU)
            prepared = precision.prepared(copy.deepcopy(network))
            assert prepared[0].weight.dtype == precision.dtype
            assert prepared[1].weight.dtype == torch.float32
            assert prepared[0].weight.is_contiguous(memory_format=torch.channels_last)
            with precision.autocast():
                torch.testing.assert_close(prepared(pictures).float(), expected, rtol=0, atol=tolerance)


def test_a_cpu_has_fp32_and_bf16():
    assert [pick_precision(name, CPU).name for name in ("auto", "fp32", "bf16")] == ["fp32", "fp32", "bf16"]
    for name, instead in (("tf32", "fp32"), ("fp16", "bf16")):
        with pytest.raises(ConfigError, match=f"precision is {name} on cpu .*Pass `--precision {instead}`"):
            pick_precision(name, CPU)


def test_float32_on_cuda_is_ieee_but_for_tf32_and_nothing_is_left_behind():
    before = formats()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, accepted in (("fp32", "ieee"), ("bf16", "ieee"), ("tf32", "tf32")):
            with suppress(KeyboardInterrupt), Precision(name, CUDA).in_effect():
                assert formats() == [accepted] * 3
                # the compiler of some versions reads the old names, which PyTorch refuses where they differ from the new ones
                assert torch.backends.cuda.matmul.allow_tf32 is torch.backends.cudnn.allow_tf32 is (name == "tf32")
                assert torch.get_float32_matmul_precision() == ("high" if name == "tf32" else "highest")
                raise KeyboardInterrupt
            assert formats() == before
        with Precision("bf16", CPU).in_effect():
            assert formats() == before


def test_what_is_measured_names_device_and_precision(gpu):
    described = pick_precision("fp16", CUDA).described
    assert described == {"device": "cuda", "gpu": f"NVIDIA {gpu}", "precision": "fp16"}
    assert pick_precision("auto", CPU).described == {"device": "cpu", "precision": "fp32"}


def test_only_fp16_scales_and_only_half_precisions_cast(monkeypatch):
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    scaled = [name for name in ("fp32", "tf32", "bf16", "fp16") if Precision(name, CUDA).scaler().is_enabled()]
    assert scaled == ["fp16"]


def start(out, name, device=CUDA, *, checkpoint=False):
    """What config.yaml says after a training was started with `name`."""
    settings = Teach(str(out), "data", "motion", precision=name, device=device.type)
    with training_session(settings, TRAINED_ON) as started:
        written = yaml.safe_load(RunFolder(out).config.read_text())["precision"]
        assert written == started.precision.name
        if checkpoint:
            save_checkpoint(started.folder.checkpoint, {})
    return written


def test_a_resumed_run_keeps_the_precision_it_was_started_with(tmp_path, monkeypatch, gpu):
    started = start(tmp_path, "auto", checkpoint=True)
    assert started == {"ampere": "bf16", "turing": "fp16"}[gpu]
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)  # on a newer GPU
    assert start(tmp_path, "auto") == started
    assert start(tmp_path, started) == started
    with pytest.raises(ConfigError, match=f"holds a run with precision {started}, not fp32"):
        start(tmp_path, "fp32")
    if started == "bf16":
        assert start(tmp_path, "auto", CPU) == "bf16"
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
        with pytest.raises(ConfigError, match="holds a run with precision bf16, not fp16"):
            start(tmp_path, "auto")
    else:
        with pytest.raises(ConfigError, match="precision is fp16 on cpu"):
            start(tmp_path, "auto", CPU)


def test_an_older_run_in_fp32_stays_in_fp32(tmp_path, gpu):
    """Its config.yaml says fp32, which was the default."""
    start(tmp_path, "fp32", checkpoint=True)
    assert start(tmp_path, "auto") == "fp32"


def test_ranks_compute_in_one_precision(tmp_path, monkeypatch):
    """Gradients are scaled for fp16 only: where one rank's GPU has no bf16, all ranks use fp16."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)

    class OneOfTwo(Ranks):
        def any(self, flag):
            return True

    settings = Teach(str(tmp_path), "data", "motion")
    precision = session._precision_of(settings, RunFolder(tmp_path), OneOfTwo(device=CUDA))
    assert precision.name == "fp16"
    fixed = replace(settings, precision="fp32")
    assert session._precision_of(fixed, RunFolder(tmp_path), Ranks(device=CUDA)).name == "fp32"
