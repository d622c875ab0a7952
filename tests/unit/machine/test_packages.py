"""Distribution packages: which are missing, and what happens where they cannot be had."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from machine import packages
from machine.errors import MachineError
from machine.packages import PACKAGES


def test_a_package_is_missing_when_its_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there, absent = (
        replace(PACKAGES[0], name=name, provides=str(tmp_path / name)) for name in ("there", "absent")
    )
    (tmp_path / "there").write_text("")
    monkeypatch.setattr(packages, "PACKAGES", (there, absent))
    assert packages.missing() == [absent]


def test_every_package_says_what_it_is_needed_for() -> None:
    assert len({package.name for package in PACKAGES}) == len(PACKAGES)
    for package in PACKAGES:
        assert package.reason
        assert Path(package.provides).is_absolute()


def test_a_distributions_own_services_are_named_so_that_they_stay_off() -> None:
    assert {package.name: package.service for package in PACKAGES if package.service} == {
        "containerd": "containerd.service",
        "docker-registry": "docker-registry.service",
        "etcd-server": "etcd.service",
    }


def test_without_apt_get_nothing_is_tried_and_the_way_out_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*arguments: object, **options: object) -> None:
        raise AssertionError("something was run")

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("subprocess.run", run)
    message = r"^packages buildah runc: missing, and there is no apt-get .* --context NAME --registry HOST --store URL$"
    with pytest.raises(MachineError, match=message):
        packages.install([package for package in PACKAGES if package.name in {"buildah", "runc"}])


def test_a_failing_apt_get_shows_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apt = tmp_path / "apt-get"
    apt.write_text(
        '#!/bin/sh\n[ "$DEBIAN_FRONTEND" = noninteractive ] && echo "E: Unable to locate" >&2\nexit 100\n'
    )
    apt.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(MachineError, match=r"^apt-get update failed:\nE: Unable to locate$"):
        packages._apt("update")
