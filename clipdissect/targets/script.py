"""TorchScript programs as networks whose layers can be hooked.

torch refuses hooks on the modules of a loaded program, and never comes back to Python while one
runs. So the program's graph is changed: each module's `forward` gets a mark at its end, the marks
survive inlining, and those of the layers that are asked for become further outputs of the graph.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

# An operation that takes anything and that no pass of the compiler removes; it is never run.
_MARK = "prim::Print"
_TAG = "clipdissect"
_FORWARD = re.compile(r"forward\d*")
# What differs between two loads of one file, or two places of the source code.
_PASSING = re.compile(r"\.___torch_mangle_\d+|# \S+:\d+:\d+")


class Echo(nn.Module):
    """Stands for one module of a program: gets what that returned, and runs the hooks on it.

    Args:
        script: the module.
    """

    def __init__(self, script: Any) -> None:
        super().__init__()
        self.original_name = script.original_name
        for name, child in script.named_children():
            self.add_module(name, Echo(child))

    def forward(self, output: Tensor) -> Tensor:
        """What the module returned."""
        return output


class Program(Echo):
    """A TorchScript program; its modules and tensors have their names in it.

    Modules that don't return one tensor, or run within a loop, can't be told apart from modules
    that took no part in the pass.

    Args:
        script: of `torch.jit.load`, on the CPU; not to be used otherwise afterwards.
    """

    # Not an attribute: digests look at the tensors and the code below instead.
    __slots__ = ("_functions", "_script")
    _functions: dict[tuple[str, ...], tuple[Any, list[str]]]
    _script: Any

    def __init__(self, script: Any) -> None:
        super().__init__(script)
        object.__setattr__(self, "_script", script.eval())
        object.__setattr__(self, "_functions", {})
        arguments = script.forward.schema.arguments[2:]  # after the program itself and the images
        self.defaults = [argument.default_value for argument in arguments]
        _mark(script)  # before anything is inlined, since torch keeps what it has inlined
        self.code = _PASSING.sub("", str(script.inlined_graph))
        self._adopt()
        self.eval()

    def forward(self, images: Tensor) -> Any:
        """The program's output; what hooked layers return goes through their `Echo` first."""
        hooked = tuple(name for name, m in self.named_modules() if name and m._forward_hooks)
        if hooked not in self._functions:
            self._functions[hooked] = _function(self._script, set(hooked))
        function, layers = self._functions[hooked]
        output, *values = function(self._script._c, images, *self.defaults)
        for layer, value in zip(layers, values, strict=True):
            if value is not None:  # of a branch that wasn't taken
                self.get_submodule(layer)(value)
        return output

    def _apply(self, fn: Any, recurse: bool = True) -> Program:
        self._script._apply(fn)
        self._adopt()
        return self

    def _adopt(self) -> None:
        """Take the program's tensors as one's own, under their names."""
        for name, module in self._script.named_modules():
            own = self.get_submodule(name)
            for key, parameter in module.named_parameters(recurse=False):
                own._parameters[key] = nn.Parameter(parameter.detach(), requires_grad=False)
            for key, buffer in module.named_buffers(recurse=False):
                own._buffers[key] = buffer


def _mark(script: Any) -> None:
    """Put a mark, with the module and its output, at the end of each module's forward."""
    for _, module in script.named_modules():
        for method in module._c._method_names():
            # A traced module that runs twice has a `forward1`; modules of one class share graphs.
            graph = module._c._get_method(method).graph
            output = next(iter(graph.outputs()))
            is_done = not _FORWARD.fullmatch(method) or _marks(graph)
            if output.type().kind() == "TensorType" and not is_done:
                node = graph.create(_MARK, [next(iter(graph.inputs())), output], 0)
                node.s_(_TAG, "output")
                graph.appendNode(node)


def _function(script: Any, layers: set[str]) -> tuple[Any, list[str]]:
    """A function of the program and an input: its output, then what the layers return.

    Also the layers in the order of the values; one may come twice.
    """
    graph = script.inlined_graph
    values, found = list(graph.outputs()), []
    for mark in _marks(graph):
        module, output = mark.inputs()
        layer = _name(module)
        if layer in layers:
            value = _lifted(graph, _copied(graph, output, mark), mark)
            if value is not None:
                values.append(value)
                found.append(layer)
        mark.destroy()
    result = graph.create("prim::TupleConstruct", values, 1)
    result.output().setType(torch._C.TupleType([value.type() for value in values]))
    graph.appendNode(result)
    graph.eraseOutput(0)
    graph.registerOutput(result.output())
    return torch._C._create_function_from_graph("forward", graph), found


def _marks(graph: Any) -> list[Any]:
    return [n for n in graph.findAllNodes(_MARK, True) if n.hasAttribute(_TAG)]


def _name(module: Any) -> str:
    """A module's dotted name, from how the graph gets at it."""
    names: list[str] = []
    while module.node().kind() == "prim::GetAttr":
        names.insert(0, module.node().s("name"))
        module = next(iter(module.node().inputs()))
    return ".".join(names)


def _copied(graph: Any, value: Any, before: Any) -> Any:
    """A copy of a tensor as it is at a place in the graph: it may be overwritten afterwards."""
    copy = graph.create("aten::clone", [value, _none(graph, before)], 1)
    copy.insertBefore(before)
    copy.output().setType(torch._C.TensorType.get())
    return copy.output()


def _lifted(graph: Any, value: Any, node: Any) -> Any:
    """A value out of the branches that it is computed in, None where they aren't taken.

    Returns None for a value within a loop.
    """
    while (parent := node.owningBlock().owningNode()) is not None:
        if parent.kind() != "prim::If":
            return None
        block = node.owningBlock()
        for branch in parent.blocks():
            same = branch.returnNode() == block.returnNode()
            inside = value if same else _none(graph, branch.returnNode())
            branch.registerOutput(inside)
        value = parent.addOutput()
        value.setType(torch._C.OptionalType.ofTensor())
        node = parent
    return value


def _none(graph: Any, before: Any) -> Any:
    constant = graph.create("prim::Constant", 1)
    constant.output().setType(torch._C.NoneType.get())
    constant.insertBefore(before)
    return constant.output()
