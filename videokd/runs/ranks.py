"""One run on several processes, as `torchrun` starts them: each takes its share of every batch."""

from __future__ import annotations

import hashlib
import inspect
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from videokd.datasets.loading_processes import start_server
from videokd.errors import ConfigError, VideoKDError
from videokd.models.students import Students
from videokd.types import Batch, StudentOutput

_T = TypeVar("_T")

# Machines of a cluster do not start at the same moment.
_JOIN_TIMEOUT, _SILENT_SECONDS = timedelta(minutes=10), 20.0
# While the first rank evaluates or reads a slow disk, the others wait for it.
_TIMEOUT = timedelta(hours=2)
LOST_PROCESS = "another process of this run has ended; its own message, if it had the time for one, says why."
# What copies the first rank's buffers in each step; the older name warns where there is the newer one.
_SYNC_BUFFERS = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")
    if name in inspect.signature(DistributedDataParallel.__init__).parameters
)


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

    def wrap(self, students: Students, rounds: Sequence[str | None] = (None,)) -> dict[str | None, nn.Module]:
        """The modules to run forward from now on, whose gradients are averaged over the ranks.

        The first rank's weights and buffers are copied to the others. BatchNorm is synchronised on CUDA; on CPUs each rank has its
        own statistics, and the first one's are kept. State dicts, EMA and parameter groups are still those of the students, which
        the wrappers do not copy.

        Args:
            students: on their device, and not compiled yet.
            rounds: the students whose gradients a backward pass computes: None for all of them together, or one after the other, each
                by its name. Each has a wrapper, which waits for the gradients of its own students only.

        Returns:
            {round: wrapper}, called like the students; the students themselves for a single process.
        """
        if self.num_ranks == 1:
            return dict.fromkeys(rounds, students)
        on_cuda = self.device.type == "cuda"
        if on_cuda:
            # timm's and not PyTorch's, which would drop the activation of BatchNormAct2d; both keep the parameters
            convert_sync_batchnorm(students)  # type: ignore[no-untyped-call]
        # buffers of synchronised BatchNorms are the same everywhere without being copied
        options: dict[str, Any] = {_SYNC_BUFFERS: False} if on_cuda else {}
        return {
            only: DistributedDataParallel(
                students if only is None else _OneStudent(students, only),
                device_ids=[self.device] if on_cuda else None,
                gradient_as_bucket_view=True,
                **options,
            )
            for only in rounds
        }

    def copy_buffers(self, module: nn.Module) -> None:
        """Copies the first rank's buffers to the others, before all of them look at clips with the same networks."""
        if self.num_ranks > 1:
            for buffer in module.buffers():
                values = buffer.detach().contiguous()
                dist.broadcast(values, 0)
                buffer.copy_(values)

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
        """For each of several flags, whether it is set on any rank, in one exchange, for which no device is waited for."""
        if self.num_ranks == 1:
            return flags
        numbers = torch.tensor([int(flag) for flag in flags])
        dist.all_reduce(numbers, op=dist.ReduceOp.MAX)
        return tuple(number > 0 for number in numbers.tolist())

    def gather(self, number: int) -> list[int]:
        """The number that each rank gives, in the order of the ranks, on all of them."""
        return self.total([number if rank == self.rank else 0 for rank in range(self.num_ranks)])

    def agree(self, text: str) -> bool:
        """Whether all ranks give the same text."""
        return len(set(self.gather(int(hashlib.sha256(text.encode()).hexdigest()[:12], 16)))) == 1

    def total(self, numbers: Sequence[int]) -> list[int]:
        """The sums of numbers over the ranks, each of which gives as many."""
        if self.num_ranks == 1:
            return list(numbers)
        summed = torch.tensor(numbers)
        dist.all_reduce(summed)
        return [int(number) for number in summed.tolist()]

    def in_turns(self, own: Iterator[_T], count: int) -> Iterator[_T]:
        """What all ranks produce in turns, in order, on each of them.

        Args:
            own: this rank's items: number `rank` of all, and every `num_ranks`-th from there.
            count: of all ranks' items together.

        >>> list(Ranks().in_turns(iter("abc"), 3))
        ['a', 'b', 'c']
        """
        if self.num_ranks == 1:
            yield from own
            return
        for first in range(0, count, self.num_ranks):
            gathered: list[Any] = [None] * self.num_ranks
            dist.all_gather_object(gathered, next(own) if first + self.rank < count else None)
            yield from gathered[: count - first]

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


class _OneStudent(nn.Module):
    """One student of several, so that a wrapper waits for its gradients only; called like all of them."""

    def __init__(self, students: Students, name: str) -> None:
        super().__init__()
        groups = (students.members, students.exits, students.adapters)
        self.parts = nn.ModuleList(group[name] for group in groups if name in group)
        self._students = (students,)  # not a module of this one, as which it would bring the others' parameters

    def forward(self, batch: Batch, *, only: str, with_features: bool) -> dict[str, StudentOutput]:
        outputs: dict[str, StudentOutput] = self._students[0](batch, only=only, with_features=with_features)
        return outputs


@contextmanager
def join_ranks(device: torch.device, *, workers: int = 0) -> Iterator[Ranks]:
    """This process's place among those that `torchrun` started; while it lasts, they can talk to each other.

    Reads RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT. NCCL connects CUDA devices, gloo everything else, and the processes themselves. Without these variables, or with
    one process, there is nothing to join.

    Args:
        device: from `pick_device`; of several CUDA devices each process takes the one of its local rank.
        workers: processes that will load clips; if there are any, the server that they come from is started here, to be ready in time.

    Raises:
        ConfigError: the variables do not fit each other, the port is taken, or there are more processes than CUDA devices on this machine.
        VideoKDError: not all processes came, or another one has ended while this one waited for it.

    >>> with join_ranks(torch.device("cpu")) as ranks:
    ...     ranks
    Ranks(rank=0, num_ranks=1, device=device(type='cpu'))
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    given = {name: os.environ[name] for name in names if name in os.environ}
    if not given or given.get("WORLD_SIZE") == "1":
        yield Ranks(device=device)
        return
    needed = (*names, "MASTER_PORT", "MASTER_ADDR")
    given = {name: os.environ[name] for name in needed if os.environ.get(name)}
    if len(given) < len(needed) or not all(given[name].isdecimal() for name in needed[:-1]):
        raise ConfigError(
            f"the environment has {given} (accepted: all of {', '.join(needed)}, numbers but for the last, or none of them). Start with "
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
    with _group(rank, num_ranks, device):
        if workers:
            start_server()
        yield Ranks(rank, num_ranks, device)


@contextmanager
def _group(rank: int, num_ranks: int, device: torch.device) -> Iterator[None]:
    nccl = device.type == "cuda" and dist.is_nccl_available()
    store = _meet(rank, num_ranks, f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}")
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if nccl else "gloo",
        store=store,
        rank=rank,
        world_size=num_ranks,
        timeout=_TIMEOUT,
        device_id=device if nccl else None,
    )
    try:
        yield
    except RuntimeError as error:
        if not is_lost_connection(error):
            raise
        raise VideoKDError(f"process {rank}: {LOST_PROCESS} The same command resumes from what is saved.") from error
    finally:
        dist.destroy_process_group()


def _meet(rank: int, num_ranks: int, place: str) -> Any:
    """Waits, not as long as for an exchange, until all processes are there; what they then connect through."""
    minutes = f"{_JOIN_TIMEOUT.total_seconds() / 60:.0f} minutes"
    line = f"videokd: process {rank} of {num_ranks} waits for the others at {place}, for up to {minutes}.\n"
    reminder = threading.Timer(_SILENT_SECONDS, sys.stderr.write, (line,))
    reminder.daemon = True
    reminder.start()
    try:
        store: Any = next(
            dist.rendezvous(  # type: ignore[attr-defined]
                "env://", rank, num_ranks, timeout=_JOIN_TIMEOUT
            )
        )[0]
        store.set(f"here/{rank}", "")
        store.wait([f"here/{each}" for each in range(num_ranks)], _JOIN_TIMEOUT)
    except (RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [repr(error)])[0]
        if "EADDRINUSE" in reason or "address already in use" in reason.lower():
            raise ConfigError(
                f"{place} is taken by another program or run (accepted: a free port for MASTER_PORT). Choose another one, or start with "
                "`torchrun --standalone --nproc-per-node N -m videokd …`."
            ) from error
        raise VideoKDError(
            f"process {rank} of {num_ranks}: not all processes came to {place} within {minutes} ({reason:.160}). Start them together, each with a "
            "RANK of its own, and with the MASTER_ADDR and MASTER_PORT of the first."
        ) from error
    finally:
        reminder.cancel()
    store.set_timeout(_TIMEOUT)
    return dist.PrefixStore("group", store)  # type: ignore[attr-defined]


def is_lost_connection(error: RuntimeError) -> bool:
    """Whether an exchange between processes failed, and not the computation."""
    return isinstance(error, dist.DistError) or "gloo/" in str(error)


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
