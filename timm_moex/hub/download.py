"""Weights from the Hub: their sha256 is checked before they are used, and errors say what the user can do.

timm and huggingface_hub raise many kinds of errors, some of which hide their cause. `translate_errors` turns those that
a user can act on into a `HubError`; all others pass through as they are.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import timm
from huggingface_hub import constants, get_token, hf_hub_download, try_to_load_from_cache
from huggingface_hub.constants import CONFIG_NAME
from huggingface_hub.constants import SAFETENSORS_SINGLE_FILE as WEIGHTS
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError

from ..utils.files import sha256_of
from ..utils.messages import nearest
from .address import Address, parse_address

__all__ = ["WEIGHTS", "HubError", "download_weights", "endpoint", "translate_errors"]

# of httpx and httpx2, of Python, and of requests, which huggingface_hub uses before 1.0
_NETWORK = (
    "TimeoutException",
    "NetworkError",
    "RemoteProtocolError",
    "ConnectionError",
    "Timeout",
    "ChunkedEncodingError",
)


class HubError(RuntimeError):
    """A model could not be loaded or published; the message says what to do."""


def endpoint() -> str:
    """The Hub's address as it may be printed: without a password."""
    parts = urlsplit(constants.ENDPOINT)
    if parts.username is None and parts.password is None:
        return constants.ENDPOINT
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"***@{host}").geturl()


def download_weights(
    repo_id: str, revision: str | None, expected: str | None = None, cache_dir: str | None = None
) -> Path:
    """The repo's model.safetensors from the cache, downloaded if need be, with its sha256 checked.

    Args:
        repo_id: "ORG/NAME".
        revision: Commit, tag or branch.
        expected: The file's sha256. None takes the one that the Hub stated at the download.
        cache_dir: The Hub cache; None for the usual one.

    Raises:
        HubError: The sha256 differs. The file is then removed from the cache.
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
            "used and was removed from the cache; load again, and if this happens again, tell the repo's owner"
        )
    return path


@contextmanager
def translate_errors(name: str) -> Iterator[None]:
    """Turn errors of timm and huggingface_hub that a user can act on into a `HubError`.

    Args:
        name: The model that is loaded or published, as timm names it: "hf-hub:ORG/NAME@REV", "local-dir:…", "arch.tag".
    """
    try:
        yield
    except HubError:
        raise
    except Exception as error:
        message = _translate(error, parse_address(name))
        if message is None:
            raise
        raise HubError(_without_secrets(message)) from error


def _without_secrets(message: str) -> str:
    if token := get_token():
        message = message.replace(token, "<token>")
    return message.replace(constants.ENDPOINT, endpoint())


def _translate(error: Exception, address: Address) -> str | None:
    chain: list[BaseException] = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    weights = address.weights_address()
    for cause in chain:
        message = _translate_hub_error(cause, weights.place, weights.revision or "main")
        message = message or _translate_file_error(cause, address) or _translate_registry_error(cause, address)
        if message:
            return message
    return None


def _translate_hub_error(error: BaseException, repo: str, revision: str) -> str | None:
    """What went wrong at the Hub, or on the way to it."""
    log_in = "log in (`hf auth login`, or HF_TOKEN)"
    if isinstance(error, OfflineModeIsEnabled) or (isinstance(error, LocalEntryNotFoundError) and not error.__cause__):
        return (
            f"{repo}@{revision} is not in the cache ({constants.HF_HUB_CACHE}) and HF_HUB_OFFLINE is set. Unset it "
            "and load once with a connection, or copy the folder here and load 'local-dir:FOLDER'"
        )
    if isinstance(error, GatedRepoError):
        return f"{repo} is gated: ask for access at {endpoint()}/{repo}, then {log_in}"
    if isinstance(error, RepositoryNotFoundError):
        return f"{endpoint()} has no repo {repo!r}, or it is private: check the spelling, or {log_in}"
    if isinstance(error, RevisionNotFoundError):
        return f"{repo} has no revision {revision!r}; its branches and tags are at {endpoint()}/{repo}/tree/main"
    if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
        file = CONFIG_NAME if CONFIG_NAME in str(error) else WEIGHTS
        return f"{repo}@{revision} has no {file}: it is not a complete timm model"
    # of HfHubHTTPError or requests' HTTPError; before huggingface_hub 1.0 "no answer" is one, too, without a response
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return f"{endpoint()} refused the token with {status} for {repo}: {log_in} again, or unset HF_TOKEN"
    if status is not None:
        return f"{endpoint()} answered {status} for {repo}; try again later"
    if any(kind.__name__ in _NETWORK for kind in type(error).__mro__):
        return (
            f"{endpoint()} did not answer, or the connection broke, at {repo} ({type(error).__name__}: {error}). "
            "Nothing incomplete is used, so try again; on a slow line with more seconds in HF_HUB_ETAG_TIMEOUT and "
            "HF_HUB_DOWNLOAD_TIMEOUT"
        )
    return None


def _translate_file_error(error: BaseException, address: Address) -> str | None:
    """What is wrong with the config or the weights."""
    again = "delete that file and load again" if address.source == "hf-hub" else "copy or save it again"
    text = str(error)
    if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)):
        return f"{_local_path(address, CONFIG_NAME)} is not JSON ({error}); {again}"
    if isinstance(error, (KeyError, TypeError, AttributeError)) and _is_from_config(error):
        return f"{_local_path(address, CONFIG_NAME)} is not a config of timm's ({type(error).__name__}: {error})"
    if isinstance(error, SafetensorError):
        path = _local_path(address, WEIGHTS)
        size = f"{os.path.getsize(path):,} bytes" if os.path.isfile(path) else "unknown size"
        return f"{path} ({size}) is truncated or corrupt ({error}); {again}"
    if isinstance(error, FileNotFoundError) and CONFIG_NAME in text:
        return f"{address.place} has no {CONFIG_NAME}, so timm cannot load it; training writes such a folder as …/hub"
    if "No suitable checkpoints found" in text:
        return f"{address.place} has no {WEIGHTS}; {again}"
    if "Error(s) in loading state_dict" in text:
        words = " ".join(text.split())[:300]
        return f"{address.place}: the weights do not fit the architecture in its {CONFIG_NAME}: {words}"
    return None


def _is_from_config(error: BaseException) -> bool:
    """Whether timm's own reading of a config.json failed."""
    traceback, files = error.__traceback__, []
    while traceback is not None:
        files.append(traceback.tb_frame.f_code.co_filename)
        traceback = traceback.tb_next
    return os.path.basename(files[-1]) in ("_hub.py", "_factory.py") if files else False


def _translate_registry_error(error: BaseException, address: Address) -> str | None:
    """What timm's registry does not know."""
    text = str(error)
    if found := re.match(r"Unknown model \((.*)\)", text):
        near = nearest(found[1], timm.list_models())
        return (
            f"{address.place}: architecture {found[1]!r} is not registered with timm {timm.__version__}{near}. "
            "Import the package that brings it first (timm_moex's own: `import timm_moex`), or update timm"
        )
    if found := re.match(r"Invalid pretrained tag \((.*)\) for (.*)\.$", text):
        tags = [full.partition(".")[2] for full in timm.list_models(f"{found[2]}.*", pretrained=True)]
        known = f"; it has {', '.join(tags)}" if tags else "; no weights of it are registered"
        return f"{found[2]} has no weights with the tag {found[1]!r}{nearest(found[1], tags) or known}"
    return None


def _local_path(address: Address, file: str) -> str:
    """Where `file` of a model lies on this machine."""
    if address.source != "hf-hub":
        return os.path.join(address.place, file)
    cached = try_to_load_from_cache(address.place, file, revision=address.revision)
    return cached if isinstance(cached, str) else f"{address.place}/{file}"
