"""When an error ends a run: the steps that are done are saved, and one line says up to which, and what to change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from videokd.datasets.loading_processes import LoadingEnded
from videokd.errors import VideoKDError
from videokd.runs.memory import out_of_memory_in_a_line
from videokd.runs.ranks import LOST_PROCESS, is_lost_connection
from videokd.runs.session import Session
from videokd.runs.settings import OptimSettings
from videokd.training.run_state import RunState
from videokd.training.training_clips import TrainingClips


@contextmanager
def done_steps_kept(state: RunState, clips: TrainingClips, *, optim: OptimSettings, session: Session) -> Iterator[None]:
    """While it lasts, the steps before one that cannot be done for want of memory, clips or another process are saved.

    Args:
        state: the run between its steps.
        clips: for their number in a batch.
        optim: for the number of pieces that a batch goes through in.
        session: the folder, the precision and the ranks.

    Raises:
        ConfigError: in the place of `torch.OutOfMemoryError`; names what to change.
        LoadingEnded: as it was raised, with what is saved.
        VideoKDError: another process has ended.
    """
    ranks = session.ranks
    try:
        with out_of_memory_in_a_line(lambda: _too_large(state, clips, optim=optim, session=session)):
            yield
    except LoadingEnded as error:
        raise LoadingEnded(f"{error} {state.save_done_steps()}") from error
    except RuntimeError as error:
        if not is_lost_connection(error):
            raise
        # On a GPU the last step may still wait for the gradients of the process that has ended, and then go on with wrong ones.
        kept = state.save_done_steps() if ranks.device.type == "cpu" else state.last_checkpoint
        raise VideoKDError(f"process {ranks.rank}: {LOST_PROCESS} {kept} The same command resumes.") from error


def _too_large(state: RunState, clips: TrainingClips, *, optim: OptimSettings, session: Session) -> str:
    """What a GPU's memory was too small for, what is saved, and what to change."""
    share = session.ranks.share(clips.batch_size)
    found = (
        f"data.batch_size {clips.batch_size}, optim.accumulate {optim.accumulate}, precision {session.precision.name}. "
    )
    found += state.save_done_steps()
    if optim.accumulate >= share:
        return f"{found} A single clip is too large: with another --out, lower data.num_segments or data.input_size, or take smaller networks."
    pieces = min(2 * optim.accumulate, share)
    return f"{found} Run the same command with `--optim.accumulate {pieces}`: each batch then goes through in {pieces} pieces."
