"""One run on several processes, as `torchrun` starts them: each takes its share of every batch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from videokd.errors import ConfigError

# While the first rank evaluates or reads a slow disk, the others wait for it.
_TIMEOUT = timedelta(hours=2)


@dataclass(frozen=True)
class Ranks:
    """The processes of a run; a single one needs no process group, and everything here then does nothing.

    Args:
        rank: number of this process, from 0.
        num_ranks: how many there are.
        device: this process's own.

    >>> ranks = Ranks()
    >>> ranks.is_first, ranks.mean({"a/ce": torch.tensor(0.5)}), ranks.any(False)
    (True, {'a/ce': tensor(0.5000)}, False)
    """

    rank: int = 0
    num_ranks: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def is_first(self) -> bool:
        """Whether this process writes: checkpoints, the log, what a person reads."""
        return self.rank == 0

    def share(self, batch_size: int) -> int:
        """How many clips of each step this process takes.

        Shares are equal, or the mean over ranks would not be that over the batch.

        Args:
            batch_size: clips of a step, over all ranks.

        Raises:
            ConfigError: the batch cannot be shared equally.

        >>> Ranks(rank=1, num_ranks=2).share(32)
        16
        """
        if batch_size < 1 or batch_size % self.num_ranks:
            raise ConfigError(
                f"batch_size is {batch_size} on {self.num_ranks} processes (accepted: a multiple of {self.num_ranks}, as they "
                "share each batch equally). Correct one of them."
            )
        return batch_size // self.num_ranks

    def wrap(self, students: nn.Module, *, alternating: bool = False) -> nn.Module:
        """The module to run forward from now on, whose gradients are averaged over the ranks.

        One wrapper holds all students. The first rank's weights and buffers are copied to the others. BatchNorm is
        synchronised on CUDA; on CPUs each rank has its own statistics, and the first one's are kept. State dicts, EMA and
        parameter groups are still those of the students, which the wrapper does not copy.

        Args:
            students: on its device, and not compiled yet.
            alternating: whether a backward pass may reach some of the students only.

        Returns:
            A wrapper; the students themselves for a single process.
        """
        if self.num_ranks == 1:
            return students
        if self.device.type == "cuda":
            # timm's and not PyTorch's, which would drop the activation of BatchNormAct2d; both keep the parameters
            convert_sync_batchnorm(students)  # type: ignore[no-untyped-call]
        return DistributedDataParallel(
            students,
            device_ids=[self.device] if self.device.type == "cuda" else None,
            find_unused_parameters=alternating,
            gradient_as_bucket_view=True,
        )

    def mean(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The mean over the ranks of scalars such as the parts of a loss, in one exchange.

        What is not finite on one rank is not finite in the mean, so that all of them see it, and stop alike.

        Args:
            values: {name: scalar}, the same names on all ranks.

        Returns:
            {name: scalar}, without a graph.
        """
        if self.num_ranks == 1 or not values:
            return {name: value.detach() for name, value in values.items()}
        stacked = torch.stack([value.detach().float() for value in values.values()]).to(self.device)
        dist.all_reduce(stacked)
        return dict(zip(values, (stacked / self.num_ranks).unbind(), strict=True))

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank, so that all of them leave the loop after the same step."""
        return self.any_of(flag)[0]

    def any_of(self, *flags: bool) -> tuple[bool, ...]:
        """For each of several flags, whether it is set on any rank, in one exchange."""
        if self.num_ranks == 1:
            return flags
        numbers = torch.tensor([float(flag) for flag in flags], device=self.device)
        dist.all_reduce(numbers, op=dist.ReduceOp.MAX)
        return tuple(number > 0 for number in numbers.tolist())

    def gather(self, number: int) -> list[int]:
        """The number that each rank gives, in the order of the ranks, on all of them."""
        if self.num_ranks == 1:
            return [number]
        numbers = torch.zeros(self.num_ranks, dtype=torch.int64, device=self.device)
        numbers[self.rank] = number
        dist.all_reduce(numbers)
        return [int(each) for each in numbers.tolist()]

    def seed_step(self, seed: int, step: int) -> None:
        """Seeds PyTorch's generators for a step, so that dropout differs between steps and between ranks.

        What a step draws follows from these numbers only. So a resumed run continues like an uninterrupted one on any number
        of ranks, and no generator's state has to be kept.

        Args:
            seed: of the run.
            step: its number, from 0.

        >>> Ranks().seed_step(0, 7); a = torch.rand(1); Ranks().seed_step(0, 7); bool(a == torch.rand(1))
        True
        """
        mixed = np.random.SeedSequence((seed, step, self.rank)).generate_state(1, np.uint64)
        torch.default_generator.manual_seed(int(mixed[0]))
        # not torch.manual_seed, which without a CUDA device formats the stack each time, to have a traceback if there should be one
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.manual_seed(int(mixed[0]))

    def barrier(self) -> None:
        """Waits until every rank is here."""
        if self.num_ranks > 1:
            self.any(False)


@contextmanager
def join_ranks(device: torch.device) -> Iterator[Ranks]:
    """This process's place among those that `torchrun` started; while it lasts, they can talk to each other.

    Reads RANK, WORLD_SIZE and LOCAL_RANK. NCCL connects CUDA devices, gloo everything else. Without these variables, or with
    one process, there is nothing to join.

    Args:
        device: from `pick_device`; of several CUDA devices each process takes the one of its local rank.

    Raises:
        ConfigError: the variables do not fit each other, or there are more processes than CUDA devices on this machine.

    >>> with join_ranks(torch.device("cpu")) as ranks:
    ...     ranks
    Ranks(rank=0, num_ranks=1, device=device(type='cpu'))
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    given = {name: os.environ[name] for name in names if name in os.environ}
    if not given or given.get("WORLD_SIZE") == "1":
        yield Ranks(device=device)
        return
    if len(given) < len(names) or not all(value.isdecimal() for value in given.values()):
        raise ConfigError(
            f"the environment has {given} (accepted: numbers for all of {', '.join(names)}, or none of them). Start with "
            "`torchrun --nproc-per-node N -m videokd …`, or unset them."
        )
    rank, num_ranks, local_rank = (int(given[name]) for name in names)
    if rank >= num_ranks:
        raise ConfigError(f"RANK is {rank} (accepted: 0 up to WORLD_SIZE, {num_ranks}, not included). Use torchrun.")
    if device.type == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise ConfigError(
                f"LOCAL_RANK is {local_rank}, but this machine has {torch.cuda.device_count()} CUDA devices (accepted: a "
                "process each). Pass a smaller `--nproc-per-node` to torchrun."
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    nccl = device.type == "cuda" and dist.is_nccl_available()
    dist.init_process_group("nccl" if nccl else "gloo", rank=rank, world_size=num_ranks, timeout=_TIMEOUT)
    try:
        yield Ranks(rank, num_ranks, device)
    finally:
        dist.destroy_process_group()


def exchange_after(module: nn.Module, *, last: bool) -> AbstractContextManager[None]:
    """A context for the forward and backward pass of one piece of a batch: ranks exchange gradients after the last only.

    Args:
        module: from `Ranks.wrap`.
        last: whether it is the last piece before the optimizer steps.
    """
    if isinstance(module, DistributedDataParallel) and not last:
        context: AbstractContextManager[None] = module.no_sync()  # type: ignore[no-untyped-call]
        return context
    return nullcontext()
