"""Mixed precision under OpenVINO: the two products of every second MLP in bfloat16, everything else in float32.

Processors with bfloat16 multiply it twice as fast as float32, and an MLP is two thirds of a transformer's products. Half of them
are taken because roundings add up: of ViT-B/32 all MLPs come to 5e-4 of torch's unit vectors in a component, every second to 4e-4,
and a whole network in bfloat16 to 2e-3, beyond what an engine may be off. Residuals, norms, attention and the projection stay
float32. An MLP is two linear layers, with biases or without (those of zeros are none), and one GELU, QuickGELU, Swish or ReLU
between.
Cost: as :mod:`mmret.encode.engines.open_vino`; the file is smaller by a sixth.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmret.encode.engines.open_vino import OpenVino
from mmret.errors import UserError

EVERY = 2
"""Of so many MLPs, the first is computed in bfloat16."""
ACTIVATIONS = ("Gelu", "Swish", "Relu")
FLOAT32 = "leave encoders.*.precision at float32"


class MixedOpenVino(OpenVino):
    """See :class:`mmret.encode.engines.Engine`. Raises UserError where the processor has no bfloat16."""

    name = "openvino-mixed"
    remedy = FLOAT32
    share = 0.5

    def __init__(self):
        super().__init__()
        if "BF16" not in capabilities(self.package):
            raise UserError(
                f"precision mixed needs a processor with bfloat16 (AVX512_BF16 or AMX), which this one lacks: {FLOAT32}"
            )

    def write(self, onnx: Path, folder: Path) -> None:
        """Raises UserError where the network has no MLP of two products with an activation between."""
        from openvino._offline_transformations import apply_moc_transformations

        model = self.package.Core().read_model(onnx)
        apply_moc_transformations(model, False)  # an activation becomes one operation; values stay as they are
        found = mlps(model)
        if not found:
            raise UserError(f"precision mixed finds no MLP with a GELU, QuickGELU, Swish or ReLU in this network: {FLOAT32}")
        kept = [lower(self.package, mlp) for mlp in found[::EVERY]]
        model.validate_nodes_and_infer_types()
        self.package.save_model(model, folder / "graph.xml", compress_to_fp16=False)
        del kept


def capabilities(openvino: Any) -> list[str]:
    """What OpenVINO finds in this processor, ``BF16`` among it where bfloat16 is computed and not imitated."""
    return openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@dataclass(frozen=True)
class Linear:
    """``product`` of rows with a constant matrix, and ``end``, which adds a constant to it or is the product; nodes of OpenVINO."""

    product: Any
    end: Any

    @property
    def bias(self) -> Any | None:
        return None if self.end is self.product else constant_of(self.end)


Mlp = tuple[Linear, Any, Linear]
"""A linear layer, the activation's node, and the linear layer behind it."""


def mlps(model: Any) -> list[Mlp]:
    """Those of OpenVINO's ``model``, in the order in which they are computed."""
    found = []
    for node in model.get_ordered_ops():
        second = linear(node)
        if second is None or second.end is second.product and followed_by_its_bias(node):
            continue
        if sources(second.product)[0].get_type_name() not in ACTIVATIONS:
            continue
        activation = sources(second.product)[0]
        first = linear(sources(activation)[0])
        if first is not None and all(len(read_by(n)) == 1 for n in (first.end, activation)):
            found.append((first, activation, second))
    return found


def linear(node: Any) -> Linear | None:
    """``node`` as the end of a linear layer, if it is one."""
    product = node
    if node.get_type_name() == "Add" and constant_of(node) is not None:
        product = next((source for source in sources(node) if source.get_type_name() == "MatMul"), node)
        if len(read_by(product)) != 1:
            return None
    if product.get_type_name() != "MatMul" or sources(product)[1].get_type_name() != "Constant":
        return None
    return Linear(product, node)


def followed_by_its_bias(product: Any) -> bool:
    """Whether the sum behind ``product`` is the end of its linear layer."""
    return len(read_by(product)) == 1 and linear(read_by(product)[0]) is not None


def sources(node: Any) -> list[Any]:
    return [value.get_node() for value in node.input_values()]


def read_by(node: Any) -> list[Any]:
    return [value.get_node() for value in node.output(0).get_target_inputs()]


def constant_of(node: Any) -> Any | None:
    return next((source for source in sources(node) if source.get_type_name() == "Constant"), None)


def lower(openvino: Any, mlp: Mlp) -> list[np.ndarray]:
    """Have ``mlp`` computed in bfloat16, from its input in float32 to its output in float32; nodes between are left without types.

    Returns the memory of its constants, which has to last until the model is written.
    """
    from openvino import opset13

    kept: list[np.ndarray] = []

    def constant(node: Any) -> Any:
        kept.append(rounded(node.data))
        return opset13.constant(openvino.Tensor(kept[-1], list(node.data.shape), openvino.Type.bf16))

    def lowered(value: Any, layer: Linear) -> Any:
        turned = layer.product.get_attributes()
        matrix = constant(sources(layer.product)[1])
        product = opset13.matmul(opset13.convert(value, "bf16"), matrix, turned["transpose_a"], turned["transpose_b"])
        return product if layer.bias is None else opset13.add(product, constant(layer.bias))

    first, activation, second = mlp
    activation.input(0).replace_source_output(lowered(first.product.input_value(0), first).output(0))
    if (factor := constant_of(activation)) is not None:  # QuickGELU is a Swish with a factor, of its input's type
        activation.input(1).replace_source_output(constant(factor).output(0))
    ended = opset13.convert(lowered(activation.output(0), second), "f32")
    second.end.output(0).replace(ended.output(0))
    return kept


def rounded(values: np.ndarray) -> np.ndarray:
    """``values`` float32 as the bits of the nearest bfloat16, uint16; ties to even; OpenVINO would cut off."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
