"""A JAX function as an ONNX graph: its operations one by one, each written as ONNX has it.

It knows the operations that scoring consists of (products, sums, softmax, rows of tables) and refuses any other by
its name. What an output does not depend on is left out, whatever it is. To add an operation: a function in `WRITERS`,
or a row of `SAME` where ONNX has the same one under another name.
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal
from jax.lax import GatherScatterMode

from fedvlr_jax.errors import ConfigError
from fedvlr_jax.extras import require_extra

with require_extra("onnx", "ONNX"):
    import onnx
    from onnx import helper, numpy_helper

OPSET, IR_VERSION = 18, 8  # of 2022: whatever reads ONNX today reads these
TYPES = ("float32", "int32", "bool")

SAME = {
    name: name.capitalize()
    for name in (
        *("abs", "add", "and", "div", "erf", "exp", "log", "max", "min", "mul"),
        *("neg", "not", "or", "pow", "sqrt", "sub", "tanh"),
    )
} | {
    "eq": "Equal",
    "ge": "GreaterOrEqual",
    "gt": "Greater",
    "le": "LessOrEqual",
    "logistic": "Sigmoid",
    "lt": "Less",
    "stop_gradient": "Identity",
}
"""Operations that ONNX has under another name."""


class Graph:
    """Nodes and constants of a graph that is being written; a value is known by its name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self._numbers = itertools.count()

    def add(self, operation: str, *inputs: str, **attributes: Any) -> str:
        """The name of the output of one more node."""
        return self.split(operation, 1, *inputs, **attributes)[0]

    def split(self, operation: str, count: int, *inputs: str, **attributes: Any) -> list[str]:
        """The names of the outputs of one more node that has `count` of them."""
        outputs = [f"t{next(self._numbers)}" for _ in range(count)]
        self.nodes.append(helper.make_node(operation, list(inputs), outputs, **attributes))
        return outputs

    def constant(self, value: np.ndarray) -> str:
        """The name of a constant."""
        name = f"c{next(self._numbers)}"
        self.constants[name] = value
        return name

    def numbers(self, values: Iterable[int]) -> str:
        """The name of some whole numbers, in the type in which ONNX takes shapes and axes."""
        return self.constant(np.array(list(values), np.int64))


def to_onnx(
    function: Callable[..., jax.Array],
    arguments: Sequence[Any],
    names: Sequence[str],
    constants: Mapping[str, np.ndarray],
    output: str,
    about: Mapping[str, Any],
) -> onnx.ModelProto:
    """The graph of a function, checked.

    Args:
      function: of arrays to one array, pure.
      arguments: their shapes, as trees.
      names: of the leaves of `arguments`, in their order.
      constants: values of some of them, by name; the others are the graph's inputs.
      output: name of the result.
      about: metadata of the model.

    Raises:
      ConfigError: the extra ``onnx`` is not installed, or the function has an operation that is not known here.
    """
    closed = jax.make_jaxpr(function)(*arguments)
    jaxpr, graph = closed.jaxpr, Graph()
    kept = _needed(jaxpr)
    read = {var for equation in kept for var in equation.invars if not isinstance(var, Literal)}
    known = {var: graph.constant(np.asarray(x)) for var, x in zip(jaxpr.constvars, closed.consts, strict=True)}
    inputs = []
    for name, var in zip(names, jaxpr.invars, strict=True):
        if var not in read:
            continue
        known[var] = name
        if name in constants:
            graph.constants[name] = constants[name]
        else:
            inputs.append(_typed(name, var.aval))
    (result,) = _write(graph, kept, known, jaxpr.outvars)
    graph.nodes.append(helper.make_node("Identity", [result], [output]))
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            output,
            inputs,
            [_typed(output, jaxpr.outvars[0].aval)],
            [numpy_helper.from_array(x, name) for name, x in graph.constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="fedvlr_jax",
    )
    helper.set_model_props(model, {name: str(value) for name, value in about.items()})
    onnx.checker.check_model(model, full_check=True)
    return model


def _needed(jaxpr: Jaxpr) -> list[JaxprEqn]:
    """The equations that the outputs depend on, in order."""
    wanted, kept = set(jaxpr.outvars), []
    for equation in reversed(jaxpr.eqns):
        if wanted.intersection(equation.outvars):
            wanted.update(var for var in equation.invars if not isinstance(var, Literal))
            kept.append(equation)
    return kept[::-1]


def _write(graph: Graph, equations: Iterable[JaxprEqn], known: dict[Any, str], outputs: Sequence[Any]) -> list[str]:
    """Adds the nodes of equations, given the names of values so far; the names of `outputs`."""

    def name_of(var: Any) -> str:
        return graph.constant(np.asarray(var.val, _dtype(var))) if isinstance(var, Literal) else known[var]

    for equation in equations:
        inputs = [name_of(var) for var in equation.invars]
        known.update(zip(equation.outvars, _write_one(graph, equation, inputs), strict=True))
    return [name_of(var) for var in outputs]


def _write_one(graph: Graph, equation: JaxprEqn, inputs: list[str]) -> list[str]:
    """The names of an equation's outputs."""
    operation = equation.primitive.name
    if operation in INLINED:
        inner = equation.params[INLINED[operation]]
        jaxpr, values = (inner.jaxpr, inner.consts) if isinstance(inner, ClosedJaxpr) else (inner, ())
        known = dict(zip(jaxpr.invars, inputs, strict=True))
        known |= {var: graph.constant(np.asarray(x)) for var, x in zip(jaxpr.constvars, values, strict=True)}
        return _write(graph, _needed(jaxpr), known, jaxpr.outvars)
    if operation in SAME:
        return [graph.add(SAME[operation], *inputs)]
    if operation not in WRITERS:
        raise _unknown(f"the operation {operation}")
    found = WRITERS[operation](graph, equation, inputs)
    return [found] if isinstance(found, str) else found


def _unknown(found: str) -> ConfigError:
    return ConfigError(
        f"ONNX: expected scores of products, sums and rows of tables in float32, found {found}; a host that trains "
        "before it scores (pfedrec, fcf with objective=squared) has no graph in ONNX"
    )


def _typed(name: str, aval: Any) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, _type(aval.dtype), aval.shape)


def _type(dtype: Any) -> int:
    if str(dtype) not in TYPES:
        raise _unknown(f"numbers of the type {dtype}")
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def _shape(var: Any) -> tuple[int, ...]:
    return tuple(var.aval.shape)


def _dtype(var: Any) -> np.dtype:
    return np.dtype(var.aval.dtype)


def _reshape(graph: Graph, equation: JaxprEqn, inputs: list[str]) -> str:
    """Reshape, squeeze, expand_dims: all know the shape of their output."""
    return graph.add("Reshape", inputs[0], graph.numbers(_shape(equation.outvars[0])))


def _broadcast(graph: Graph, equation: JaxprEqn, inputs: list[str]) -> str:
    shape, axes = equation.params["shape"], equation.params["broadcast_dimensions"]
    sizes = dict(zip(axes, _shape(equation.invars[0]), strict=True))
    aligned = graph.add("Reshape", inputs[0], graph.numbers(sizes.get(k, 1) for k in range(len(shape))))
    return graph.add("Expand", aligned, graph.numbers(shape))


def _reduce(operation: str) -> Callable[[Graph, JaxprEqn, list[str]], str]:
    def write(graph: Graph, equation: JaxprEqn, inputs: list[str]) -> str:
        return graph.add(operation, inputs[0], graph.numbers(equation.params["axes"]), keepdims=0)

    return write


def _contract(graph: Graph, equation: JaxprEqn, inputs: list[str]) -> str:
    """A product with contracted and shared axes: the letters of an Einsum."""
    (contracted, shared), letters = equation.params["dimension_numbers"], iter(string.ascii_lowercase)
    axes = [[next(letters) for _ in _shape(var)] for var in equation.invars]
    for a, b in (*zip(*contracted, strict=True), *zip(*shared, strict=True)):
        axes[1][b] = axes[0][a]
    left = [axes[0][a] for a in shared[0]]
    own = [[x for k, x in enumerate(axes[side]) if k not in (*contracted[side], *shared[side])] for side in range(2)]
    terms = ("".join(axes[0]), "".join(axes[1]), "".join([*left, *own[0], *own[1]]))
    return graph.add("Einsum", *inputs, equation="{},{}->{}".format(*terms))


def _rows(graph: Graph, equation: JaxprEqn, inputs: list[str]) -> str:
    """Rows of a table; numbers out of range read the nearest row, or the value that the mode fills with."""
    table, index = map(_shape, equation.invars)
    numbers, mode = equation.params["dimension_numbers"], equation.params["mode"]
    out = _shape(equation.outvars[0])
    whole = tuple(equation.params["slice_sizes"]) == (1, *table[1:])
    ordered = tuple(numbers.offset_dims) == tuple(range(len(index) - 1, len(out)))
    if not whole or not ordered or tuple(numbers.start_index_map) != (0,) or numbers.operand_batching_dims:
        raise _unknown("rows along another axis than the first")
    position = graph.add("Reshape", inputs[1], graph.numbers(index[:-1]))
    first, last = (graph.constant(np.array(x, np.int32)) for x in (0, table[0] - 1))
    near = graph.add("Min", graph.add("Max", position, first), last)
    found = graph.add("Gather", inputs[0], near, axis=0)
    if mode != GatherScatterMode.FILL_OR_DROP:
        return found
    there = graph.add(
        "Reshape", graph.add("Equal", position, near), graph.numbers((*index[:-1], *[1] * (len(table) - 1)))
    )
    fill = graph.constant(np.array(equation.params["fill_value"], _dtype(equation.outvars[0])))
    return graph.add("Where", there, found, fill)


def _select(graph: Graph, equation: JaxprEqn, inputs: list[str]) -> str:
    which, *cases = inputs
    if len(cases) != 2 or _dtype(equation.invars[0]).kind != "b":
        raise _unknown("a choice between more than two values")
    return graph.add("Where", which, cases[1], cases[0])


def _split(graph: Graph, equation: JaxprEqn, inputs: list[str]) -> list[str]:
    sizes = equation.params["sizes"]
    return graph.split("Split", len(sizes), inputs[0], graph.numbers(sizes), axis=equation.params["axis"])


def _log1p(graph: Graph, equation: JaxprEqn, inputs: list[str]) -> str:
    return graph.add("Log", graph.add("Add", inputs[0], graph.constant(np.array(1, np.float32))))


def _integer_pow(graph: Graph, equation: JaxprEqn, inputs: list[str]) -> str:
    return graph.add("Pow", inputs[0], graph.constant(np.array(equation.params["y"], np.int32)))


INLINED = {"jit": "jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}
"""Operations that are functions of their own, and the name that JAX gives these."""

WRITERS: dict[str, Callable[[Graph, JaxprEqn, list[str]], str | list[str]]] = {
    "broadcast_in_dim": _broadcast,
    "concatenate": lambda g, e, x: g.add("Concat", *x, axis=e.params["dimension"]),
    "convert_element_type": lambda g, e, x: g.add("Cast", x[0], to=_type(e.params["new_dtype"])),
    "dot_general": _contract,
    "expand_dims": _reshape,
    "gather": _rows,
    "integer_pow": _integer_pow,
    "log1p": _log1p,
    "ne": lambda g, e, x: g.add("Not", g.add("Equal", *x)),
    "reduce_max": _reduce("ReduceMax"),
    "reduce_sum": _reduce("ReduceSum"),
    "reshape": _reshape,
    "rsqrt": lambda g, e, x: g.add("Reciprocal", g.add("Sqrt", x[0])),
    "select_n": _select,
    "split": _split,
    "square": lambda g, e, x: g.add("Mul", x[0], x[0]),
    "squeeze": _reshape,
    "transpose": lambda g, e, x: g.add("Transpose", x[0], perm=e.params["permutation"]),
}
"""How each operation is written: ``(graph, equation, names of its inputs) -> name(s) of its outputs``."""
