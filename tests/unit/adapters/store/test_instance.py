from pathlib import Path

from dstack_vpn.adapters.store import instance


def test_a_state_directory_keeps_its_name(tmp_path: Path) -> None:
    assert instance.read(tmp_path / "state") == ""
    name = instance.read_or_make(tmp_path / "state")
    assert len(name) == 32
    assert instance.read_or_make(tmp_path / "state") == instance.read(tmp_path / "state") == name
    assert instance.read_or_make(tmp_path / "another") != name
    (tmp_path / "state" / instance.FILE).write_text("dstack-vpn found\n")
    assert instance.read_or_make(tmp_path / "state") == ""
