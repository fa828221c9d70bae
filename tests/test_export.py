"""What leaves PyTorch is the backbone: exported twins carry no trace of the exchange."""

import collections

import pytest
import torch
from small_twins import IDX, SMALL, images, small, twin

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")


def pair(arch):
    plain, model = small(arch).eval(), twin(arch).eval()
    with torch.no_grad():
        model(images(arch), swap_index=IDX)  # what was exchanged before must not be exported
    return plain, model


def operations(program):
    return [(node.op, str(node.target)) for node in program.graph_module.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("arch", SMALL)
def test_exported_twin_is_the_backbone(arch, strict):
    plain, model = pair(arch)
    x = images(arch)
    expected, program = (torch.export.export(m, (x,), strict=strict) for m in (plain, model))
    assert operations(program) == operations(expected)
    assert set(program.state_dict) == set(expected.state_dict)
    with torch.no_grad():
        assert torch.equal(program.module()(x), plain(x))


@pytest.mark.parametrize("arch", SMALL)
def test_onnx_of_a_twin_is_that_of_the_backbone(arch):
    import onnx
    from onnx.reference import ReferenceEvaluator

    plain, model = pair(arch)
    x = images(arch, batch=1)
    protos = [torch.onnx.export(m, (x,), dynamo=True, verbose=False).model_proto for m in (plain, model)]
    onnx.checker.check_model(protos[1])
    counts = [collections.Counter(node.op_type for node in proto.graph.node) for proto in protos]
    assert counts[0] == counts[1] and sum(counts[1].values()) > 10
    weights = [{w.name: w.SerializeToString() for w in proto.graph.initializer} for proto in protos]
    assert weights[0] == weights[1]
    if arch.startswith("vit"):
        (output,) = ReferenceEvaluator(protos[1]).run(None, {protos[1].graph.input[0].name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(output), plain(x).detach(), rtol=1e-3, atol=1e-4)
