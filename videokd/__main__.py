"""`videokd VERB …`: finds the verb's recipe, runs it, and turns errors into one line and an exit status."""

from __future__ import annotations

import difflib
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any, TextIO

from videokd.errors import VideoKDError, printable
from videokd.messages import say
from videokd.stopping import one_interrupt

#: verb → (where its function is, what it does). A verb's module is imported only when the verb runs.
VERBS = {
    "demo": ("videokd.recipes.demo:main", "end to end on generated clips, in minutes, with a report"),
    "show": ("videokd.recipes.show:main", "a picture of a video's streams"),
    "inspect": ("videokd.recipes.inspect:main", "what a video's codec holds and can give"),
    "describe": ("videokd.recipes.describe:main", "how the clips of an archive move, stand still and cut, as a table"),
    "prepare": ("videokd.recipes.prepare:main", "a dataset into the training form, with its manifest"),
    "teach": ("videokd.recipes.teach:main", "trains one stream's teacher"),
    "distill": ("videokd.recipes.distill:main", "trains students from teachers and from each other"),
    "evaluate": ("videokd.recipes.evaluate:main", "runs the test protocol on a run"),
    "fuse": ("videokd.recipes.fuse:main", "fuses scores files, or finds weights for them"),
    "predict": ("videokd.recipes.predict:main", "names the action in videos"),
    "watch": ("videokd.recipes.watch:main", "names the action in live streams, window by window"),
    "app": ("videokd.recipes.app:main", "a page in the browser: drop a clip, see streams and answers"),
    "export": ("videokd.recipes.export:main", "only a run's students, to load and run anywhere"),
    "report": ("videokd.recipes.report:main", "one HTML page from any number of runs"),
    "presets": ("videokd.recipes.presets:main", "lists the presets, or shows one"),
}


#: Verbs that continue where they were stopped, and verbs that do so if they save their rows.
_RESUMING = ("demo", "prepare", "teach", "distill", "evaluate")
_RESUMING_IF_SAVED = ("describe", "predict")


def _resumes(verb: str, rest: list[str]) -> bool:
    saves = any(each.partition("=")[0] == "--save" for each in rest)
    return verb in _RESUMING or (verb in _RESUMING_IF_SAVED and saves)


def usage() -> str:
    """The list of verbs."""
    lines = [f"  {verb:<10}{purpose}" for verb, (_, purpose) in VERBS.items()]
    return "\n".join(
        [
            "usage: videokd VERB [...] [--config PRESET-OR-FILE] [--dotted.override value]",
            "",
            "Action recognition in compressed video: teachers on codec streams, distilled into small students.",
            "",
            *lines,
            "",
            "`videokd VERB --help` says what a verb takes; `videokd demo --out runs/demo` shows everything at once.",
        ]
    )


def _version() -> str:
    from videokd import __version__

    return f"videokd {__version__}\n"


def main(arguments: list[str] | None = None) -> int:
    """Runs one verb.

    Args:
        arguments: of the command line, without the program's name; sys.argv's if omitted.

    Returns:
        0 done; 2 wrong settings or input; 130 stopped by Ctrl-C. Anything else raises, for a traceback.
    """
    with _outputs() as output:
        stop = None
        try:
            try:
                status = _run(sys.argv[1:] if arguments is None else arguments)
            except SystemExit as ended:  # after --help
                stop, status = ended, 0
            output.flush()
        except _Unwritable as error:
            output.give_up()
            # Whoever read our output and has gone away (`videokd inspect … | head`) has what they wanted
            return (
                0 if error.errno == errno.EPIPE else _refuse(f"standard output cannot be written ({error.strerror}).")
            )
    if stop is not None:
        raise stop
    return status


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help", "--version"):
        sys.stdout.write(_version() if arguments[:1] == ["--version"] else usage() + "\n")
        return 0
    verb, *rest = arguments
    if verb not in VERBS:
        close = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f" Did you mean `{close[0]}`?" if close else ""
        return _refuse(f"no verb {verb!r} (accepted: {', '.join(VERBS)}).{hint}")
    # Threads of PyTorch that wait by spinning slow a busy machine down tenfold, and gain nothing on an idle one
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    module, _, function = VERBS[verb][0].partition(":")
    try:
        with one_interrupt():
            getattr(import_module(module), function)(rest)
    except VideoKDError as error:
        return _refuse(str(error))
    except KeyboardInterrupt:
        say(f"videokd: {verb} stopped{'; the same command resumes' if _resumes(verb, rest) else ''}.")
        return 130
    except OSError as error:
        if isinstance(error, _Unwritable) or error.errno not in _OF_THE_MACHINE:
            raise
        place = f"{error.filename}: " if error.filename is not None else ""
        return _refuse(f"{place}{error.strerror}. Check free space, permissions and the path, then try again.")
    return 0


def _refuse(message: str) -> int:
    # not str.split: a line break inside a file's name is escaped, not made a space
    sys.stderr.write(f"videokd: {printable(message.replace(chr(10), ' '))}\n")
    return 2


#: What the user can do something about: a full disk, a missing permission, a path that is none
_OF_THE_MACHINE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.EMFILE,
    errno.ENFILE,
)


class _Unwritable(OSError):
    """Standard output is full, closed, or nobody reads it."""


class _Results:
    """Standard output: says by an error of its own that it cannot be written."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        encoding = self._stream.encoding or "utf-8"
        try:
            return self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except OSError as error:
            raise _Unwritable(error.errno, error.strerror) from error

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            raise _Unwritable(error.errno, error.strerror) from error

    def give_up(self) -> None:
        """What was not written yet goes nowhere, or Python complains about it when it ends."""
        _to_nowhere(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Messages(_Results):
    """Standard error: where it cannot be written, work continues without messages."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except _Unwritable:
            self.give_up()
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except _Unwritable:
            self.give_up()


def _to_nowhere(stream: TextIO) -> None:
    with suppress(OSError, ValueError):  # a stream without a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def _outputs() -> Iterator[_Results]:
    """While it lasts, both outputs can be written to, even where whoever started us has closed them."""
    before = sys.stdout, sys.stderr
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:  # closed; the next file that is opened would take its place, and messages be written into it
            # one that cannot be written stands in for standard output, so that it is noticed
            os.open(os.devnull, os.O_RDONLY if number < 2 else os.O_WRONLY)
    sys.stdout = _Results(before[0] or os.fdopen(1, "w", closefd=False))  # type: ignore[assignment]
    sys.stderr = _Messages(before[1] or os.fdopen(2, "w", closefd=False))  # type: ignore[assignment]
    try:
        yield sys.stdout  # type: ignore[misc]
    finally:
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


if __name__ == "__main__":
    sys.exit(main())
