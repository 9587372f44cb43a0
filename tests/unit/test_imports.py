"""Modules have no import cycles, including imports for types or inside functions."""

import grimp


def circles(imports: dict[str, set[str]]) -> list[set[str]]:
    """Return the strongly connected components of more than one module (Tarjan's algorithm)."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(module: str) -> None:
        number[module] = lowest[module] = len(number)
        stack.append(module)
        for other in imports[module]:
            if other not in number:
                visit(other)
                lowest[module] = min(lowest[module], lowest[other])
            elif other in stack:
                lowest[module] = min(lowest[module], number[other])
        if lowest[module] == number[module]:
            circle = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(circle) > 1:
                found.append(set(circle))

    for module in imports:
        if module not in number:
            visit(module)
    return found


def test_no_module_imports_itself_over_others() -> None:
    graph = grimp.build_graph("dstack_vpn")
    assert circles({m: graph.find_modules_directly_imported_by(m) for m in graph.modules}) == []


def test_the_check_finds_circles() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [{"b", "c"}]
