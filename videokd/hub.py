"""The Hugging Face Hub: `hf://owner/name` as a local folder, and an export as a repository."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from videokd.errors import ConfigError, DataError
from videokd.messages import say

#: `Path("hf://a/b")` has one slash.
_ADDRESS = re.compile(r"hf:/{1,2}(?P<repository>[^@]*)(?:@(?P<revision>.*))?", re.DOTALL)
_README = "README.md"
#: A part of a repository's name, as the Hub allows it.
_PART = r"[A-Za-z0-9](?:[A-Za-z0-9_]|[.-](?![.-])){0,95}"
_REPOSITORY = re.compile(rf"{_PART}/{_PART}")
_REVISION = re.compile(r"[A-Za-z0-9][\w./+-]{0,254}", re.ASCII)


def local_folder(path: str | os.PathLike[str], *, names: Sequence[str]) -> Path:
    """A folder as it is, or the local copy of a repository of the Hugging Face Hub.

    Only the named files are downloaded, into the cache of huggingface_hub; files that are there already, of the same revision, are
    not downloaded again. With `HF_HUB_OFFLINE=1` only the cache is used.

    Args:
        path: of a folder, or `hf://owner/name`, or `hf://owner/name@revision` with a branch, tag or commit.
        names: of the files to download, without folders.

    Returns:
        The folder; it need not exist unless it is a copy. A file that the repository does not have is missing there.

    Raises:
        ConfigError: the address is wrong, or huggingface_hub is not installed.
        DataError: there is no such repository or revision, it may not be read, or the Hub cannot be reached.
    """
    address = os.fspath(path)
    if not isinstance(address, str) or not (parts := _ADDRESS.fullmatch(address)):
        return Path(path)
    repository, revision = parts["repository"], parts["revision"]
    check_repository(repository, where=address)
    if revision is not None and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise ConfigError(
            f"{address}: {revision!r:.80} is not a revision (accepted: a branch, tag or commit). Correct the address."
        )
    with _errors_in_a_line(f"hf://{repository}" + (f"@{revision}" if revision else "")):
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(names)))


def push(
    folder: Path,
    repository: str,
    *,
    names: Sequence[str],
    version: str,
    may_replace: Callable[[Path], bool] | None = None,
) -> str:
    """Uploads files of a folder to a repository of the Hugging Face Hub, in one commit.

    Files of other names that are in the repository stay there. A repository that does not exist is made, and is private.

    Args:
        folder: which holds the files.
        repository: `owner/name`.
        names: of the files; those that the folder does not have are omitted.
        version: of videokd, for the commit's message.
        may_replace: whether the repository's own README.md, of which it is given a copy, may be replaced; None: always.

    Returns:
        The address of the repository's page.

    Raises:
        ConfigError: the name is wrong, or huggingface_hub is not installed.
        DataError: the account may not write there, the Hub cannot be reached, or it refuses the files.
    """
    check_repository(repository, where="push")
    with _errors_in_a_line(f"hf://{repository}", writes=True):
        from huggingface_hub import CommitOperationAdd, HfApi

        api = HfApi(library_name="videokd", library_version=version)
        page = api.create_repo(repository, private=True, exist_ok=True)
        if may_replace is not None and not _replaceable(repository, may_replace):
            say(f"hf://{repository}: its {_README} is kept: videokd did not write it, or it was changed since.")
            names = [name for name in names if name != _README]
        files = [
            CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name)
            for name in names
            if (folder / name).is_file()
        ]
        api.create_commit(repository, files, commit_message=f"Students exported by videokd {version}")
        return str(page)


def _replaceable(repository: str, may_replace: Callable[[Path], bool]) -> bool:
    from huggingface_hub import errors, hf_hub_download

    try:
        return may_replace(Path(hf_hub_download(repository, _README)))
    except errors.EntryNotFoundError:
        return True


def check_repository(repository: str, *, where: str) -> None:
    """Refuses what cannot be the name of a repository, and says so where huggingface_hub is missing.

    Args:
        repository: `owner/name`.
        where: it was given, for the message.

    Raises:
        ConfigError: the name is wrong, or huggingface_hub is not installed.
    """
    if not _REPOSITORY.fullmatch(repository) or len(repository) > 96 or repository.endswith(".git"):
        raise ConfigError(
            f"{where}: {repository!r:.120} is not a repository of the Hugging Face Hub (accepted: owner/name, of letters, digits and "
            "single . _ -). Correct the name."
        )
    if find_spec("huggingface_hub") is None:
        raise ConfigError(
            f"{where}: huggingface_hub is not installed (accepted: version 1 or later). Run `pip install 'videokd[hub]'`."
        )


@contextmanager
def _errors_in_a_line(address: str, *, writes: bool = False) -> Iterator[None]:
    """Turns what huggingface_hub raises into one line that names the address."""
    from huggingface_hub import errors

    account = "Log in with `hf auth login`, or set HF_TOKEN, then try again."
    access = "write to it" if writes else "read it"
    # httpx's HTTPError: what is raised where no answer came
    no_answer: Any = errors.HfHubHTTPError.__mro__[1]
    try:
        yield
    except errors.HFValidationError as error:
        raise ConfigError(f"{address}: {_first_line(error)} Correct the name.") from error
    except errors.GatedRepoError as error:
        raise DataError(f"{address} is gated: ask for access on its page. {account}") from error
    except errors.RevisionNotFoundError as error:
        raise DataError(f"{address}: the repository has no such revision. Correct what follows the @.") from error
    except errors.RepositoryNotFoundError as error:
        raise DataError(
            f"{address} does not exist, or it is private and your token cannot {access}. Check the name. {account}"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise DataError(
            f"{address} is not in the local cache, and the Hugging Face Hub cannot be reached ({_first_line(error.__cause__ or error)}). "
            "Check the network; without one, copy the folder of the export here, and name that."
        ) from error
    except errors.HfHubHTTPError as error:
        raise DataError(_http_line(error, address, access=access, account=account)) from error
    except (OSError, no_answer) as error:
        raise DataError(
            f"{address}: the Hugging Face Hub cannot be reached ({_first_line(error)}). Check the network, then try again."
        ) from error


def _http_line(error: Exception, address: str, *, access: str, account: str) -> str:
    """What an answer of the Hub means that is an error."""
    status = getattr(getattr(error, "response", None), "status_code", 0)
    if status in (401, 403):
        return f"{address}: your token cannot {access} (HTTP {status}). {account}"
    reason = getattr(error, "server_message", None) or _first_line(error)
    return f"{address}: the Hugging Face Hub answered HTTP {status} ({' '.join(str(reason).split()):.200}). Try again later."


def _first_line(error: BaseException) -> str:
    """The first line of an error's message, or its name."""
    return f"{(str(error).strip().splitlines() or [type(error).__name__])[0]:.160}"
