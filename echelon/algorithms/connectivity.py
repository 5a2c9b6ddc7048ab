"""One check and one message for graphs that fall apart."""

import networkx as nx


def require_connected(graph: nx.Graph, subject: str, remedy: str) -> None:
    """Raise if some workers can never hear from each other.

    Parameters
    ----------
    graph : networkx.Graph
        Graph on ranks.
    subject : str
        What is checked; begins the message.
    remedy : str
        What the user can do about it; ends the message.

    Raises
    ------
    ValueError
        Naming every component.
    """
    components = sorted(sorted(component) for component in nx.connected_components(graph))
    if len(components) > 1:
        named = ", ".join(str(component) for component in components)
        raise ValueError(f"{subject} must be connected; got {len(components)} components: {named}; {remedy}")
