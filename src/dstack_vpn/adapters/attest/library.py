"""dcap-qvl, the verifier that dstack itself uses. It is loaded by the command that needs it."""

from types import ModuleType
from typing import Any

from dstack_vpn.errors import AdminError


def library() -> ModuleType | Any:  # noqa: ANN401 - mypy has no stubs for all classes
    """Return the module. Raises `AdminError` if it is not installed."""
    try:
        import dcap_qvl
    except ImportError as error:
        raise AdminError(
            "this command checks quotes, which needs dcap-qvl: pip install 'dstack-vpn[attest]'"
        ) from error
    return dcap_qvl
