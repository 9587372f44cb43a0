"""The account of a keystore file, for commands."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from dstack_vpn.adapters.admin.keystore import decrypt
from dstack_vpn.config import Secret, Settings
from dstack_vpn.config.secret_file import read_secret
from dstack_vpn.errors import ConfigError


def unlock(
    settings: Settings, keystore: Path, password_file: Path | None, ask: Callable[[], str]
) -> Settings:
    """Return the settings with the account of a keystore.

    The password is from ``password_file``, else from ``CONTRACT_KEYSTORE_PASSWORD`` or its file,
    else from ``ask``. Raises `ConfigError` and `AdminError`.
    """
    problems: list[str] = []
    content = read_secret("--keystore", keystore, problems, example="/etc/dstack-vpn/owner.json")
    password: str | None = None
    if password_file is not None:
        password = read_secret("--password-file", password_file, problems, "/etc/dstack-vpn/password")
    elif settings.contract_keystore_password is not None:
        password = settings.contract_keystore_password.reveal()
    if problems or content is None:
        raise ConfigError(problems)
    key = decrypt(content, ask() if password is None else password)
    return replace(settings, contract_private_key=Secret(key))
