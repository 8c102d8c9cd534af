"""`videokd VERB …`: finds the verb's recipe, runs it, and turns errors into one line and an exit status."""

from __future__ import annotations

import difflib
import os
import sys
from importlib import import_module

from videokd.errors import VideoKDError

#: verb → (where its function is, what it does). A verb's module is imported only when the verb runs.
VERBS = {
    "demo": ("videokd.recipes.demo:main", "the whole way on generated clips, in minutes, with a report"),
    "show": ("videokd.recipes.show:main", "a picture of a video's streams"),
    "inspect": ("videokd.recipes.inspect:main", "what a video's codec holds and can give"),
    "prepare": ("videokd.recipes.prepare:main", "a dataset into the training form, with its manifest"),
    "teach": ("videokd.recipes.teach:main", "trains one stream's teacher"),
    "distill": ("videokd.recipes.distill:main", "trains students from teachers and from each other"),
    "evaluate": ("videokd.recipes.evaluate:main", "runs the test protocol on a run"),
    "fuse": ("videokd.recipes.fuse:main", "fuses scores files, or finds weights for them"),
    "predict": ("videokd.recipes.predict:main", "names the action in videos"),
    "export": ("videokd.recipes.export:main", "a run's students alone, to load and run anywhere"),
    "report": ("videokd.recipes.report:main", "one HTML page from any number of runs"),
    "presets": ("videokd.recipes.presets:main", "lists the presets, or shows one"),
}


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


def main(arguments: list[str] | None = None) -> int:
    """Runs one verb.

    Args:
        arguments: of the command line, without the program's name; sys.argv's if left out.

    Returns:
        0 done; 2 wrong settings or input; 130 stopped by Ctrl-C. Anything else raises, for a traceback.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        sys.stdout.write(usage() + "\n")
        return 0
    if arguments[0] == "--version":
        from videokd import __version__

        sys.stdout.write(f"videokd {__version__}\n")
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
        getattr(import_module(module), function)(rest)
    except VideoKDError as error:
        return _refuse(" ".join(str(error).split()))
    except KeyboardInterrupt:
        sys.stderr.write(f"videokd: {verb} stopped; the same command goes on from where it was.\n")
        return 130
    except BrokenPipeError:
        # whoever read our output has gone away (`videokd inspect … | head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _refuse(message: str) -> int:
    sys.stderr.write(f"videokd: {message}\n")
    return 2


if __name__ == "__main__":
    sys.exit(main())
