"""The order in which a module uses its children, read off the source of its `forward`.

Registration order is often not depth order: SegResNet registers two lists that run alternately, DynUNet its auxiliary
heads after the output. A forward pass would tell but needs an input; the source does not.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterable, Mapping
from itertools import zip_longest

from torch import nn


def children_in_order(module: nn.Module) -> list[nn.Module]:
    """Children that have parameters, in the order in which ``forward`` uses them."""
    named = {name: child for name, child in module.named_children() if any(True for _ in child.parameters())}
    if len(named) < 2:
        return list(named.values())
    reader = _ForwardReader(type(module), named)
    together = _alternating(reader.loops, named)
    ordered: dict[nn.Module, None] = {}
    for name in _use_order(reader.uses, named):
        stages = [list(named[sibling].children()) for sibling in together.get(name, ())]
        alternating = [stage for step in zip_longest(*stages) for stage in step if stage is not None]
        ordered.update(dict.fromkeys(alternating or [named[name]]))
    return list(ordered)


def _use_order(uses: Iterable[str], named: Mapping[str, nn.Module]) -> list[str]:
    """Names as used; a child that ``forward`` does not name stays behind the sibling registered before it."""
    order = list(dict.fromkeys(uses))
    covered = {id(parameter) for name in order for parameter in named[name].parameters()}
    position = 0
    for name, child in named.items():
        if name in order:
            position = order.index(name) + 1
        elif any(id(parameter) not in covered for parameter in child.parameters()):
            order.insert(position, name)
            position += 1
    return order


def _alternating(loops: Iterable[list[str]], named: Mapping[str, nn.Module]) -> dict[str, list[str]]:
    """ModuleLists that one loop runs through together: name -> names of all lists of that loop, in order."""
    together: dict[str, list[str]] = {}
    for loop in loops:
        lists = [name for name in dict.fromkeys(loop) if type(named[name]) is nn.ModuleList]
        if len(lists) > 1:
            for name in lists:
                together.setdefault(name, lists)
    return together


class _ForwardReader(ast.NodeVisitor):
    """Reads which children ``forward``, and the methods it calls, use: in order (`uses`) and by loop (`loops`)."""

    def __init__(self, module_type: type[nn.Module], children: Iterable[str]) -> None:
        self.uses: list[str] = []
        self.loops: list[list[str]] = []
        self._type = module_type
        self._children = set(children)
        self._read: set[str] = set()
        self._read_method("forward")

    def _read_method(self, name: str) -> None:
        method = getattr(self._type, name, None)
        if inspect.isfunction(method) and name not in self._read:
            self._read.add(name)
            for statement in _body(method):
                self.visit(statement)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if not (isinstance(node.value, ast.Name) and node.value.id == "self"):
            self.visit(node.value)
        elif node.attr in self._children:
            self.uses.append(node.attr)
        else:
            self._read_method(node.attr)

    def visit_Call(self, node: ast.Call) -> None:
        # In self.head(self.body(x)) the body runs first.
        for argument in [*node.args, *node.keywords]:
            self.visit(argument)
        self.visit(node.func)

    def visit_If(self, node: ast.If) -> None:
        # A test looks at a module (`is not None`), it does not run it.
        for statement in [*node.body, *node.orelse]:
            self.visit(statement)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.visit(node.body)
        self.visit(node.orelse)

    def visit_For(self, node: ast.For) -> None:
        before = len(self.uses)
        self.generic_visit(node)
        self.loops.append(self.uses[before:])


def _body(function: Callable[..., object]) -> list[ast.stmt]:
    """Statements of a function; none if its source is not at hand (built at run time, compiled)."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return []
    return tree.body
