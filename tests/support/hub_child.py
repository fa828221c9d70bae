"""A separate process with an empty Hub cache that executes commands: JSON lines in, JSON lines out.

`Child` starts this file as a script. Waits between retries are shortened.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from loopback_hub import TOKEN


class Child:
    """A process whose HF_HOME is `home`.

    Args:
        url: Of the Hub.
        home: An empty folder.
        timm_moex: Whether it imports timm_moex; otherwise only timm.
        **environment: Further variables.
    """

    def __init__(self, url: str, home: Path, timm_moex: bool = True, **environment: str) -> None:
        inherited = {key: os.environ[key] for key in ("PATH", "PYTHONPATH") if key in os.environ}
        quiet = dict(HF_HUB_DISABLE_PROGRESS_BARS="1", HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_XET="1")
        hub = dict(HF_ENDPOINT=url, HF_HOME=str(home), HF_HUB_ETAG_TIMEOUT="1", HF_HUB_DOWNLOAD_TIMEOUT="1")
        env = inherited | quiet | hub | dict(HOME=str(home), OMP_NUM_THREADS="1", HF_TOKEN=TOKEN) | environment
        command = [sys.executable, "-u", __file__, "timm_moex" if timm_moex else "timm"]
        self.errors = open(home / "stderr.txt", "w+")
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True, env=env
        )

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: Any) -> None:
        self.process.terminate()
        self.process.communicate()
        self.errors.close()

    def __call__(self, what: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Run one of the functions below; return {"result": …}, or {"error": type, "message": …}."""
        self.process.stdin.write(json.dumps([what, args, kwargs]) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, Path(self.errors.name).read_text()
        return json.loads(line)


def logits_of(model: Any) -> dict[str, Any]:
    """Return values to compare between processes: logits of two fixed images, or a feature net's shapes."""
    import torch

    first = next(module for module in model.modules() if isinstance(module, torch.nn.Conv2d))
    channels, size = first.in_channels, model.pretrained_cfg["input_size"][-1]
    x = torch.linspace(-1, 1, 2 * channels * size * size).reshape(2, channels, size, size)
    with torch.inference_mode():
        y = model.eval()(x)
    shapes = [list(level.shape) for level in y] if isinstance(y, list) else None
    return {"class": type(model).__name__, "logits": None if shapes else y.tolist(), "shapes": shapes}


def create(name: str, **kwargs: Any) -> dict[str, Any]:
    import timm

    return logits_of(timm.create_model(name, pretrained=True, **kwargs))


def load(name: str, **kwargs: Any) -> dict[str, Any]:
    from timm_moex.hub import load_model

    return logits_of(load_model(name, **kwargs))


def load_in(folder: str, name: str) -> dict[str, Any]:
    os.chdir(folder)
    return load(name)


def twin(name: str, **kwargs: Any) -> dict[str, Any]:
    from timm_moex.hub import load_twin

    return logits_of(load_twin(name, **kwargs))


def name_classes(name: str, pictures: list[str], twin: bool = False) -> list[tuple[str, float]]:
    """The predicted ImageNet class of each picture, and its probability."""
    import timm
    import torch
    from PIL import Image

    if twin:
        from timm_moex.hub import load_twin

        model = load_twin(name).eval()
    else:
        model = timm.create_model(name, pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    said = []
    for picture in pictures:
        with torch.inference_mode():
            probability, label = model(transform(Image.open(picture).convert("RGB"))[None]).softmax(1)[0].max(0)
        said.append((timm.data.ImageNetInfo().index_to_description(int(label)), round(float(probability), 3)))
    return said


def push(folder: str, repo_id: str) -> str:
    """timm's own upload, including a pickle."""
    import timm

    return timm.models.push_to_hf_hub(timm.create_model(f"local-dir:{folder}", pretrained=True), repo_id).oid


def publish(folder: str, repo_id: str, **kwargs: Any) -> dict[str, Any]:
    from timm_moex.hub.publish import publish

    done = publish(folder, repo_id, **kwargs)
    return {"revision": done.revision, "changed": done.changed, "manifest": done.manifest and str(done.manifest)}


def publish_all(org: str, root: str, **kwargs: Any) -> dict[str, Any]:
    from timm_moex.hub.publish import publish_all

    done = publish_all(org, root, **kwargs)
    return {"collection": done.collection, "added": done.added}


def command(*words: str) -> dict[str, Any]:
    """`timm-moex WORDS`"""
    import contextlib
    import io

    from timm_moex.cli import main

    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = main(words)
    return {"code": code, "out": out.getvalue()}


def list_pretrained(pattern: str) -> list[str]:
    import timm

    return timm.list_pretrained(pattern)


def set_offline(value: bool) -> None:
    from huggingface_hub import constants, utils

    constants.HF_HUB_OFFLINE = value
    if hasattr(utils, "reset_sessions"):  # before 1.0 the constant is read when a session begins
        utils.reset_sessions()


def set_token(value: str | None) -> None:
    os.environ["HF_TOKEN"] = value or ""


def main() -> None:
    import time

    from huggingface_hub import file_download

    time.sleep = lambda seconds: None  # between retries
    file_download._ETAG_RETRY_TIMEOUT = 0.2  # seconds
    if sys.argv[1] == "timm_moex":
        import timm_moex  # noqa: F401
    for line in sys.stdin:
        what, args, kwargs = json.loads(line)
        try:
            answer = {"result": globals()[what](*args, **kwargs)}
        except Exception as error:  # told to the parent, which decides
            answer = {"error": type(error).__name__, "message": str(error)}
        print(json.dumps(answer))


if __name__ == "__main__":
    main()
