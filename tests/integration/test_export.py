"""Exported twins are the plain backbone, without a trace of the exchange."""

import pytest
import torch
from small_twins import IDX, SMALL, images, small, twin

from timm_moex import remove_moex


def pair(arch):
    plain, model = small(arch).eval(), twin(arch).eval()
    with torch.no_grad():
        model(images(arch), swap_index=IDX)  # what was exchanged before must not be exported
    return plain, model


def operations(program):
    return [(node.op, str(node.target)) for node in program.graph_module.graph.nodes if node.op == "call_function"]


def can_export_hooks_strictly():
    """Some PyTorch versions, such as 2.8, cannot export a module with any forward hooks with strict=True."""
    module = torch.nn.Linear(2, 2)
    module.register_forward_pre_hook(lambda *_: None, with_kwargs=True)
    try:
        torch.export.export(module, (torch.ones(1, 2),), strict=True)
    except Exception as error:  # of several types, private ones among them
        return "Cannot export model" not in str(error)
    return True


STRICT = {arch: [False] for arch in SMALL} | {"resnet10t": [True, False], "vit_tiny_patch16_224": [True, False]}


@pytest.mark.parametrize("arch, strict", [(arch, strict) for arch, modes in STRICT.items() for strict in modes])
def test_exported_twin_is_the_backbone(arch, strict):
    if strict and not can_export_hooks_strictly():
        pytest.skip(f"PyTorch {torch.__version__} cannot export a module with forward hooks with strict=True")
    plain, model = pair(arch)
    x = images(arch)
    expected, program = (torch.export.export(m, (x,), strict=strict) for m in (plain, model))
    assert operations(program) == operations(expected)
    assert set(program.state_dict) == set(expected.state_dict)
    with torch.no_grad():
        assert torch.equal(program.module()(x), plain(x))


@pytest.mark.parametrize("arch", SMALL)
def test_onnx_of_a_twin_computes_what_the_backbone_does(arch):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    from onnx.reference import ReferenceEvaluator

    plain, model = pair(arch)
    x = images(arch, batch=2)
    proto = torch.onnx.export(model, (x,), dynamo=True, verbose=False).model_proto
    onnx.checker.check_model(proto)
    assert len(proto.graph.input) == 1
    (output,) = ReferenceEvaluator(proto).run(None, {proto.graph.input[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(output), plain(x).detach(), rtol=1e-3, atol=1e-4)


def test_scripting_a_model_with_moex_says_what_to_do_instead():
    plain, model = pair("resnet10t")
    with pytest.raises(TypeError, match="scriptable=True, or call remove_moex"):
        torch.jit.script(model)
    x = images("resnet10t")
    torch.testing.assert_close(torch.jit.script(remove_moex(model))(x), plain(x))


@pytest.mark.parametrize("strict", [False, True])
def test_a_twin_that_draws_cannot_be_exported(strict):
    if strict and not can_export_hooks_strictly():
        pytest.skip(f"PyTorch {torch.__version__} cannot export a module with forward hooks with strict=True")
    model, x = twin("resnet10t", moex_lam=1.0).train(), images("resnet10t")
    with pytest.raises(Exception, match="torch.export cannot export the random draw"):
        torch.export.export(model, (x,), strict=strict)
