"""Download weights from the Hub, check their sha256 before use, and raise errors that say what to do.

`translate_errors` turns errors of timm and huggingface_hub about a model, a repo or a connection into a `HubError`. It
keeps the original message and adds the server's. Only messages that hide the cause are replaced, see `MISLEADING`.
"""

import json
import os
import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import constants, get_token, hf_hub_download, try_to_load_from_cache
from huggingface_hub.constants import CONFIG_NAME
from huggingface_hub.constants import SAFETENSORS_SINGLE_FILE as WEIGHTS
from huggingface_hub.errors import (
    BadRequestError,
    EntryNotFoundError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)
from safetensors import SafetensorError

from ..utils.files import sha256_of
from ..utils.messages import did_you_mean, one_line
from .address import Address, hidden_model, parse_address

__all__ = ["MISLEADING", "WEIGHTS", "HubError", "Unreachable", "download_weights", "endpoint", "translate_errors"]

# Exception names in httpx, httpx2, Python, and requests (which huggingface_hub used before 1.0)
_NETWORK = ("TransportError", "ConnectionError", "Timeout", "ChunkedEncodingError")
_PASSING = (409, 412, 429)  # conflicts and rate limits are temporary, as are server errors from 500 on


class HubError(RuntimeError):
    """A model could not be loaded or published; the message says what to do."""


class Unreachable(HubError):
    """The Hub did not answer."""


def endpoint() -> str:
    """Return the Hub's address without credentials, safe to print."""
    return re.sub("//[^/]*@", "//***@", constants.ENDPOINT)


def download_weights(
    repo_id: str, revision: str | None, expected: str | None = None, cache_dir: str | None = None
) -> Path:
    """Download the repo's model.safetensors unless it is cached, check its sha256, and return its path.

    `expected` is the file's sha256; None uses the one that the Hub reported during the download.

    Raises:
        HubError: The sha256 does not match. The file is then removed from the cache.
    """
    path = Path(hf_hub_download(repo_id, WEIGHTS, revision=revision, cache_dir=cache_dir))
    blob, found = path.resolve(), sha256_of(path)
    if expected is None and re.fullmatch("[0-9a-f]{64}", blob.name):
        expected = blob.name
    if expected not in (None, found):
        path.unlink()
        blob.unlink(missing_ok=True)
        raise HubError(
            f"{repo_id}@{revision or 'main'}: {WEIGHTS} has sha256 {found}, expected {expected}. The file was removed "
            "from the cache; load it again, and if the error persists, tell the repo's owner"
        )
    return path


@contextmanager
def translate_errors(name: str) -> Iterator[None]:
    """Turn errors about the model with this name in timm, such as "hf-hub:ORG/NAME@REV", into a `HubError`."""
    try:
        yield
    except HubError:
        raise
    except Exception as error:
        kind, message = _translate(error, parse_address(name))
        if message is None:
            raise
        if token := get_token():
            message = message.replace(token, "<token>")
        raise kind(message.replace(constants.ENDPOINT, endpoint())) from error


def _translate(error: Exception, address: Address) -> tuple[type[HubError], str | None]:
    chain: list[BaseException] = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    for cause in chain:
        for explain in MISLEADING.values():
            if message := explain(cause, address):
                return Unreachable if explain is _no_connection else HubError, message
    for cause in chain:
        if isinstance(cause, HfHubHTTPError):
            return HubError, f"{address.weights_address().place}: {one_line(cause)}"
        if re.match("No suitable checkpoints found|Error\\(s\\) in loading state_dict", str(cause)):
            return HubError, f"{address.timm_name}: {one_line(cause)}"
    return HubError, None


def _not_cached(error: BaseException, address: Address) -> str | None:
    if isinstance(error, OfflineModeIsEnabled) or (isinstance(error, LocalEntryNotFoundError) and not error.__cause__):
        weights = address.weights_address()
        return (
            f"{weights.place}@{weights.revision or 'main'} is not in the cache ({constants.HF_HUB_CACHE}) and "
            "HF_HUB_OFFLINE is set. Unset it and load once with a connection, or copy the folder here and load "
            "'local-dir:FOLDER'"
        )
    return None


def _no_such_file(error: BaseException, address: Address) -> str | None:
    if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
        weights, file = address.weights_address(), CONFIG_NAME if CONFIG_NAME in str(error) else WEIGHTS
        return f"{weights.place}@{weights.revision or 'main'} has no {file}, so it is not a complete timm model"
    return None


def _no_connection(error: BaseException, address: Address) -> str | None:
    names = [kind.__name__ for kind in type(error).__mro__]
    if not any(name in _NETWORK for name in names):
        return None
    what = f"{address.weights_address().place} ({type(error).__name__}: {error})"
    if "ProxyError" in names:
        return f"the proxy in HTTPS_PROXY or HTTP_PROXY refused the connection to {endpoint()} for {what}"
    return (
        f"{endpoint()} did not answer or dropped the connection for {what}. Incomplete files are never used, so try "
        "again; on a slow connection, increase HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT"
    )


def _bare_status(error: BaseException, address: Address) -> str | None:
    # huggingface_hub reports a Hub that is down as a missing file, with its answer as the cause
    answer = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else error
    response: Any = getattr(answer, "response", None)  # from httpx; before huggingface_hub 1.0 from requests
    if response is None or answer is error and type(error) not in (HfHubHTTPError, BadRequestError):
        return None
    status = response.status_code
    said = getattr(answer, "server_message", None) or response.headers.get("X-Error-Message") or str(answer)
    remedy = "; try again later" if status in _PASSING or status >= 500 else ""
    remedy = "; log in (`hf auth login`, or HF_TOKEN) or unset HF_TOKEN" if status == 401 else remedy
    return f"{endpoint()} answered {status} for {address.weights_address().place}: {one_line(Exception(said))}{remedy}"


def _no_config(error: BaseException, address: Address) -> str | None:
    path = _local_path(address, CONFIG_NAME)
    if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)):
        return f"{path} is not JSON ({error}); {_again(address)}"
    raised_in = [os.path.basename(frame.filename) for frame in traceback.extract_tb(error.__traceback__)][-1:]
    if isinstance(error, (KeyError, TypeError, AttributeError)) and raised_in in (["_hub.py"], ["_factory.py"]):
        return f"{path} is not a timm config ({type(error).__name__}: {error})"
    if isinstance(error, FileNotFoundError) and CONFIG_NAME in str(error):
        hidden = hidden_model(address.place)
        return f"{address.place} has no {CONFIG_NAME}, so timm cannot load it{hidden}; training writes one into …/hub"
    return None


def _damaged_weights(error: BaseException, address: Address) -> str | None:
    if isinstance(error, SafetensorError):
        path = _local_path(address, WEIGHTS)
        size = f"{os.path.getsize(path):,} bytes" if os.path.isfile(path) else "unknown size"
        return f"{path} ({size}) is truncated or corrupt ({error}); {_again(address)}"
    return None


def _again(address: Address) -> str:
    return "delete that file and load again" if address.source == "hf-hub" else "copy or save it again"


def _unknown_architecture(error: BaseException, address: Address) -> str | None:
    if found := re.match(r"Unknown model \((.*)\)", str(error)):
        near = did_you_mean(found[1], timm.list_models())
        return (
            f"{address.place}: architecture {found[1]!r} is not registered with timm {timm.__version__}{near}. "
            "Import the package that adds it first (timm_moex's own: `import timm_moex`), or update timm"
        )
    return None


def _unknown_tag(error: BaseException, address: Address) -> str | None:
    if found := re.match(r"Invalid pretrained tag \((.*)\) for (.*)\.$", str(error)):
        tags = [full.partition(".")[2] for full in timm.list_models(f"{found[2]}.*", pretrained=True)]
        known = f"; it has {', '.join(tags)}" if tags else "; it has no pretrained weights"
        return f"{found[2]} has no weights with the tag {found[1]!r}{did_you_mean(found[1], tags) or known}"
    return None


# What is misleading about a library's message, and the function that replaces it
MISLEADING: dict[str, Callable[[BaseException, Address], str | None]] = {
    "suggests 'local_files_only', which timm does not have": _not_cached,
    "names pytorch_model.bin, but model.safetensors is missing": _no_such_file,
    "gives the system's connection error, but neither the Hub's address nor the variables to set": _no_connection,
    "puts the status and a link about statuses before the server's message": _bare_status,
    "gives a line and column, or a key, but not the file": _no_config,
    "reports a header that is too large, but not the file": _damaged_weights,
    "says unknown model, although an import would register it": _unknown_architecture,
    "says invalid pretrained tag, but not which tags exist": _unknown_tag,
}


def _local_path(address: Address, file: str) -> str:
    """Return the path of a model's `file` on this machine."""
    if address.source != "hf-hub":
        return os.path.join(address.place, file)
    cached = try_to_load_from_cache(address.place, file, revision=address.revision)
    return cached if isinstance(cached, str) else f"{address.place}/{file}"
