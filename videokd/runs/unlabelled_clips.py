"""The clips without labels that a run trains on: none of them is tested or held out, and none is a copy of such a clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from videokd.datasets.manifest import Clip, Manifest, read_manifest
from videokd.datasets.near_duplicates import near_duplicates
from videokd.errors import DataError
from videokd.messages import say
from videokd.runs.run_settings import Distill
from videokd.runs.trained_on import same_clips, tested_clips, training_parts


def read_unlabelled(settings: Distill, manifest: Manifest) -> Manifest | None:
    """The clips without labels of a run, if it has any.

    Args:
        settings: of the run.
        manifest: its labelled clips.

    Returns:
        Their manifest, without those that `settings.overlap` omits.

    Raises:
        DecodeError: a clip cannot be read.
        DataError: they have labels, files of them are missing, or some are tested or held out and not to be omitted, or all are.
    """
    if settings.unlabelled is None:
        return None
    unlabelled = read_manifest(settings.unlabelled, labelled=False)
    _say_where_form_differs(unlabelled, manifest, settings)
    _, held_out = training_parts(manifest, split=settings.split, val_fraction=settings.data.val_fraction)
    parts = {"test": tested_clips(manifest, split=settings.split), "val": held_out}
    for part, clips in parts.items():
        seen = [(clip, "") for clip in same_clips(unlabelled.clips, clips)]
        unlabelled = _without(seen, unlabelled, settings, what=f"are {part} clips")
    for part, clips in parts.items():
        copies = _copies(unlabelled, manifest, clips, settings)
        unlabelled = _without(copies, unlabelled, settings, what=f"show the same as {part} clips")
    return unlabelled


def _say_where_form_differs(unlabelled: Manifest, manifest: Manifest, settings: Distill) -> None:
    """Other codecs, sizes and rates are other streams, and students learn that form as well as what is shown."""
    forms = [_form(each) for each in (unlabelled, manifest)]
    names = [name for name in forms[0] | forms[1] if forms[0].get(name) != forms[1].get(name)]
    if names:
        differing = ", ".join(f"{name} {forms[0].get(name)} instead of {forms[1].get(name)}" for name in names)
        say(
            f"{settings.unlabelled} was prepared in another form than {settings.manifest} ({differing}): teachers may be wrong about these clips, "
            "and students learn from streams unlike those that are tested. Prepare both with the same options."
        )


def _form(manifest: Manifest) -> dict[str, object]:
    """{option of `prepare`: its value}; quality and tuning belong to the codec."""
    encoding = manifest.settings.get("encoding")
    form = dict(encoding) if isinstance(encoding, Mapping) else {}
    form |= {"keep": bool(manifest.settings.get("keep")), "flip": manifest.flip}
    return {name: value for name, value in form.items() if name not in ("quality", "tune") and value is not None}


def _copies(
    unlabelled: Manifest, manifest: Manifest, clips: Sequence[Clip], settings: Distill
) -> list[tuple[Clip, str]]:
    folder = Path(settings.data.cache) if settings.data.cache else None
    pairs = near_duplicates(
        [(unlabelled, clip) for clip in unlabelled.clips], [(manifest, clip) for clip in clips], folder=folder
    )
    return [(clip, f" like {_name(other)}") for clip, other in pairs]


def _without(seen: Sequence[tuple[Clip, str]], unlabelled: Manifest, settings: Distill, *, what: str) -> Manifest:
    """The manifest without clips that were seen, where they are to be omitted; refuses them otherwise."""
    if not seen:
        return unlabelled
    first, like = seen[0]
    found = (
        f"{len(seen)} clips of {settings.unlabelled} {what} of split {settings.split} of {settings.manifest} "
        f"(first: {_name(first)}{like})"
    )
    if settings.overlap == "refuse":
        raise DataError(f"{found}. Remove them from the unlabelled ones, or pass `--overlap omit`.")
    omitted = {clip.video_id for clip, _ in seen}
    rest = tuple(clip for clip in unlabelled.clips if clip.video_id not in omitted)
    if not rest:
        raise DataError(f"{found}: without them, none is left. Omit --unlabelled, or prepare other clips.")
    say(f"{found}: omitted, {len(rest)} are left.")
    return replace(unlabelled, clips=rest)


def _name(clip: Clip) -> str:
    return clip.source_path or clip.path
