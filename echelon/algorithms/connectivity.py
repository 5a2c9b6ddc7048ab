"""Connectivity check with a common error message."""

import networkx as nx


def require_connected(graph: nx.Graph, subject: str, remedy: str) -> None:
    """Raise an error if the graph is not connected.

    Parameters
    ----------
    graph : networkx.Graph
        Graph on ranks.
    subject : str
        What is checked; the start of the message.
    remedy : str
        Suggested fix; the end of the message.

    Raises
    ------
    ValueError
        Naming every component.
    """
    components = sorted(sorted(component) for component in nx.connected_components(graph))
    if len(components) > 1:
        named = ", ".join(str(component) for component in components)
        raise ValueError(f"{subject} must be connected; got {len(components)} components: {named}; {remedy}")
