"""Weights from the Hub: their sha256 before they are used, and errors that say what to do.

timm and huggingface_hub raise many kinds of errors, some of which hide their cause. `explained` turns those that a user
can do something about into a `HubError`; whatever else goes wrong passes through as it is.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import timm
from huggingface_hub import constants, get_token, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError

from ..utils.spelling import nearest

__all__ = ["HubError", "download_weights", "sha256_of", "translate_errors"]

WEIGHTS = "model.safetensors"

_NETWORK = ("TimeoutException", "NetworkError", "RemoteProtocolError", "ConnectionError")  # of httpx, httpx2, Python


class HubError(RuntimeError):
    """A model could not be loaded, saved or published; the message says what to do."""


def sha256_of(path: str | Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def download_weights(
    repo_id: str, revision: str | None, expected: str | None = None, cache_dir: str | None = None
) -> Path:
    """The repo's model.safetensors out of the cache, downloaded if need be, and checked.

    Args:
        repo_id: "ORG/NAME".
        revision: Commit, tag or branch.
        expected: The file's sha256. Where none is given, that which the Hub said when it was downloaded.
        cache_dir: The Hub cache; None for the usual one.

    Raises:
        HubError: The hash is another. The file is then taken out of the cache.
    """
    path = Path(hf_hub_download(repo_id, WEIGHTS, revision=revision, cache_dir=cache_dir))
    blob = path.resolve()
    is_hash = re.fullmatch(r"[0-9a-f]{64}", blob.name)
    expected = expected or (blob.name if is_hash else None)
    found = sha256_of(path)
    if expected and found != expected:
        path.unlink()
        blob.unlink(missing_ok=True)
        raise HubError(
            f"{repo_id}@{revision or 'main'}: {WEIGHTS} has sha256 {found}, but {expected} was expected. It is not "
            "used and was taken out of the cache; load again, and if this persists, tell the repo's owner"
        )
    return path


@contextmanager
def translate_errors(name: str) -> Iterator[None]:
    """Turn the errors of timm and huggingface_hub about `name` into a `HubError` that says what to do.

    Args:
        name: What is being loaded or published, as timm names it: "hf-hub:ORG/NAME@REV", "local-dir:…", "arch.tag".
    """
    try:
        yield
    except HubError:
        raise
    except Exception as error:
        message = _explain(error, name)
        if message is None:
            raise
        token = get_token()
        raise HubError(message.replace(token, "<token>") if token else message) from error


def _explain(error: Exception, name: str) -> str | None:
    repo, _, revision = (_registered_repo(name) or name.removeprefix("hf-hub:")).partition("@")
    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    for one in chain:
        told = _of_hub(one, repo, revision or "main") or _of_files(one, name, repo, revision)
        if told:
            return told
    return None


def _registered_repo(name: str) -> str | None:
    """Where a registered name's weights are."""
    return timm.get_pretrained_cfg(name).hf_hub_id if timm.models.is_model_pretrained(name) else None


def _of_hub(error: BaseException, repo: str, revision: str) -> str | None:
    """What the Hub, or the way to it, said."""
    where = constants.ENDPOINT
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
    if isinstance(error, OfflineModeIsEnabled) or (isinstance(error, LocalEntryNotFoundError) and not error.__cause__):
        return (
            f"{repo}@{revision} is not in the cache ({constants.HF_HUB_CACHE}) and HF_HUB_OFFLINE is set. Unset it "
            "and load once with a connection, or copy the folder here and load 'local-dir:FOLDER'"
        )
    if isinstance(error, GatedRepoError):
        return f"{repo} is gated: ask for access at {where}/{repo}, then log in (`hf auth login`, or HF_TOKEN)"
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"{where} has no repo {repo!r}, or it is private and your token may not see it. Check the spelling, or "
            "log in (`hf auth login`, or HF_TOKEN)"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"{repo} has no revision {revision!r}; its branches and tags are at {where}/{repo}/tree/main"
    if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
        file = "config.json" if "config.json" in str(error) else f"{WEIGHTS} (nor pytorch_model.bin)"
        return f"{repo}@{revision} has no {file}: it is no timm model, or was uploaded in part; its owner can repair it"
    if status in (401, 403):
        return (
            f"{where} refused the token with {status} for {repo}. Log in anew (`hf auth login`), or set HF_TOKEN to "
            "one that may do this; to load a public repo, unset HF_TOKEN"
        )
    if status:
        return f"{where} answered {status} for {repo}: its fault, most likely; try again later"
    if isinstance(error, HFValidationError):
        return f"{repo!r} is no repo: 'ORG/NAME' was expected ({error})"
    if any(kind.__name__ in _NETWORK for kind in type(error).__mro__):
        return (
            f"{where} did not answer, or the connection broke, at {repo} ({type(error).__name__}: {error}). Nothing "
            "half was kept, so try again; if the line is slow, with HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT "
            "set to more seconds"
        )
    if isinstance(error, OSError) and "Consistency check failed" in str(error):
        return f"the download of {repo}@{revision} was cut short; nothing was kept, so just load again"
    return None


def _of_files(error: BaseException, name: str, repo: str, revision: str) -> str | None:
    """What the config, the weights or timm's registry say."""
    is_hub = name.startswith("hf-hub:")
    place = repo if is_hub else name.removeprefix("local-dir:")
    again = "copy or save it anew"
    if is_hub:
        again = "delete that file and load again; if it stays so, the repo itself is broken: tell its owner"
    if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)):
        return f"{_path(name, 'config.json')} is not JSON ({error}); {again}"
    if isinstance(error, KeyError) and str(error) in ("'architecture'", "'pretrained_cfg'"):
        return f"{_path(name, 'config.json')} has no {error}: it is of another library than timm"
    if isinstance(error, SafetensorError):
        path = _path(name, WEIGHTS)
        size = f"{os.path.getsize(path):,} bytes" if os.path.isfile(path) else "unknown size"
        return f"{path} ({size}) is truncated or corrupt ({error}); {again}"
    text = str(error)
    if isinstance(error, FileNotFoundError) and "config.json" in text:
        return f"{place} has no config.json, so timm cannot load it; such folders are what training leaves as …/hub"
    if "No suitable checkpoints found" in text:
        return f"{place} has no {WEIGHTS}; {again}"
    if found := re.match(r"Unknown model \((.*)\)", text):
        near = nearest(found[1], timm.list_models()) or "."
        return (
            f"{place}: architecture {found[1]!r} is not registered with timm {timm.__version__}{near} If a package of "
            "its own brings it, import that first (those of timm_moex: `import timm_moex`); a newer timm may have it"
        )
    if found := re.match(r"Invalid pretrained tag \((.*)\) for (.*)\.$", text):
        tags = [full.partition(".")[2] for full in timm.list_models(f"{found[2]}.*", pretrained=True)]
        known = f"; it has {', '.join(tags)}" if tags else "; no weights of it are registered"
        return f"{found[2]} has no weights with the tag {found[1]!r}{nearest(found[1], tags) or known}"
    if "Error(s) in loading state_dict" in text:
        return f"{place}: the weights are not of the architecture in its config.json: {' '.join(text.split())[:300]}"
    return None


def _path(name: str, file: str) -> str:
    """Where `file` of a model lies on this machine."""
    if not name.startswith("hf-hub:"):
        return os.path.join(name.removeprefix("local-dir:"), file)
    repo, _, revision = name.removeprefix("hf-hub:").partition("@")
    cached = try_to_load_from_cache(repo, file, revision=revision or None)
    return cached if isinstance(cached, str) else f"{repo}/{file}"
