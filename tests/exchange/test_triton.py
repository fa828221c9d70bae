"""The Triton kernels without a GPU: run in Triton's interpreter, and compiled by Triton's compiler."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from timm_moex import moment_exchange
from timm_moex.exchange import backend

triton = pytest.importorskip("triton")


def _run_script(**environment: str) -> subprocess.CompletedProcess:
    script = Path(__file__).parents[1] / "support" / "check_triton.py"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True)


def test_kernels_equal_the_reference_in_the_interpreter():
    done = _run_script(TRITON_INTERPRET="1")
    assert "interpreted: equal to the reference" in done.stdout, done.stderr[-3000:]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_kernels_equal_the_reference_on_a_gpu():
    done = _run_script(TRITON_INTERPRET="0")
    assert "on a GPU: equal to the reference" in done.stdout, done.stderr[-3000:]


@pytest.mark.parametrize("kernel", ["_moments", "_exchange", "_sums", "_grad"])
@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("mixstyle", [False, True])  # shares of own moments, and moments that count as constants
def test_kernels_compile_for_a_gpu_and_move_16_bytes_at_a_time(kernel, strided, mixstyle):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from timm_moex.exchange import _triton

    function = getattr(_triton, kernel)
    constants = {"MOMENTS": "both", "BLOCK_P": 128 if strided else 64, "BLOCK_R": 32 if strided else 64}
    constants |= {"STRIDED": strided, "SHARED": mixstyle, "CONSTANT": mixstyle}
    if not strided:
        constants["K"] = 1
    types = dict.fromkeys(["x", "y", "grad", "grad_x"], "*bf16") | dict.fromkeys(["P", "R", "K", "per_sample"], "i32")
    types |= dict.fromkeys(["mean", "std", "sums", "received", "own_share"], "*fp32")
    types |= {"swap_index": "*i64", "eps": "fp32"}
    names = function.arg_names
    source = ASTSource(
        fn=function,
        signature={name: "constexpr" if name in constants else types[name] for name in names},
        constexprs={(i,): constants[name] for i, name in enumerate(names) if name in constants},
        attrs={
            (i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name not in constants and name != "eps"
        },
    )
    ptx = compile(source, target=GPUTarget("cuda", 80, 32)).asm["ptx"]
    assert "ld.global.v4.b32" in ptx
    assert ("st.global.v4.b32" in ptx) == (kernel in ("_exchange", "_grad"))


def test_what_the_kernels_cannot_do_is_refused_by_name():
    x, swap_index = torch.randn(2, 3, 4), torch.tensor([1, 0])
    with pytest.raises(ValueError, match="x is on cpu"):
        moment_exchange(x, swap_index, backend="triton")
    with pytest.raises(ValueError, match="positive_only"):
        moment_exchange(x, swap_index, backend="triton", positive_only=True)
    with pytest.raises(ValueError, match="float64"):
        moment_exchange(x.double(), swap_index, backend="triton")


class OnGpu:
    """A tensor that claims to be on a GPU, which is all that the choice depends on."""

    def __init__(self, dtype: torch.dtype = torch.bfloat16):
        self.dtype, self.device = dtype, torch.device("cuda:0")


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(backend, "is_plain", lambda x: isinstance(x, OnGpu))
    monkeypatch.setattr(backend, "_triton_runs", lambda gpu: True)
    return OnGpu()


def test_triton_is_the_default_on_a_gpu_for_inputs_it_supports(gpu, monkeypatch):
    assert backend.default_backend(gpu, False) == "triton"
    assert backend.default_backend(torch.randn(2, 3, 4), False) == "closed_form"
    assert backend.default_backend(gpu, positive_only=True) == "closed_form"
    assert backend.default_backend(OnGpu(torch.float64), False) == "closed_form"
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert backend.default_backend(gpu, False) == "closed_form"


def test_if_triton_fails_a_warning_says_why_and_the_closed_form_is_used(gpu, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(backend, "is_plain", lambda x: isinstance(x, OnGpu))
    monkeypatch.setattr(torch, "ones", lambda *size, device, **how: torch.full(size, 1.0, **how))
    backend._triton_runs.cache_clear()
    with pytest.warns(RuntimeWarning, match="cuda:0.*slower closed form.*x is on cpu"):
        assert backend.default_backend(gpu, False) == "closed_form"
    monkeypatch.setattr(backend, "find_spec", lambda name: None)
    backend._triton_runs.cache_clear()
    assert backend.default_backend(gpu, False) == "closed_form"  # nothing to warn of: it is not installed
    backend._triton_runs.cache_clear()
