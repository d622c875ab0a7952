"""Stack files: what an edit changes and, above all, what it leaves as it was."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import yaml

from infra.config import ConfigError
from operations.errors import OperationError
from operations.stack_file import StackFile, write_atomically

ROOT = Path(__file__).parents[3]
SHA256 = 64 * "b"
OLD = 64 * "a"

MODEL = {"name": "iris", "version": "1", "sha256": OLD}
HEAD = """\
config:
  model-serving:target: local
  model-serving:posture: development
  model-serving:servingImage: { build: serving_image }
"""
# As a person might write it: other indentation, quotes, spacing, comments, a long line, no final newline.
UNUSUAL = f"""\
%YAML 1.1
---
# First of all.

config:
    "model-serving:target":   local # where
    model-serving:posture: 'development'
    model-serving:servingImage: {{build: serving_image}}

    model-serving:services:

        app:
            build: examples/flask
            port: 8000
            health: {{   ready: /healthz,   live: /livez   }}
            command:
            - gunicorn
            - 'app:app'
            env: {{ LONG: "{"many words " * 30}" }}
        iris:
            # Which one, and why: see the review of 日本語 🌸.
            model: {{ sha256: {OLD}, version:   '1'  , name: iris }}   # as reviewed
            replicas: {{min: 1,max: 2}}
...
# The end"""


def stack_file(folder: Path, text: str, stack: str = "dev") -> StackFile:
    (folder / f"Pulumi.{stack}.yaml").write_bytes(text.encode())
    return StackFile(folder, stack)


def one_service(entry: str) -> str:
    return f"{HEAD}  model-serving:services:\n    iris:\n      {entry}\n"


def test_only_the_changed_values_of_the_real_stack_file_change(tmp_path: Path) -> None:
    shutil.copy(ROOT / "stacks/Pulumi.local.yaml", tmp_path)
    before = (tmp_path / "Pulumi.local.yaml").read_bytes().decode()
    file = StackFile(tmp_path, "local")
    model = file.settings().services["iris"].model
    assert model is not None
    assert file.set_model("iris", name="iris", version="2026.1", sha256=SHA256)
    file.save()
    after = before.replace(model.sha256, SHA256).replace(f'version: "{model.version}"', 'version: "2026.1"')
    assert (tmp_path / "Pulumi.local.yaml").read_bytes().decode() == after != before
    changed = [
        pair for pair in zip(before.splitlines(), after.splitlines(), strict=True) if pair[0] != pair[1]
    ]
    assert len(changed) == 2


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_every_other_byte_stays_however_the_file_is_written(newline: str, tmp_path: Path) -> None:
    text = UNUSUAL.replace("\n", newline)
    file = stack_file(tmp_path, text)
    assert file.set_model("iris", name="iris", version="22", sha256=SHA256)
    file.save()
    assert file.path.read_bytes().decode() == text.replace(OLD, SHA256).replace(
        "version:   '1'", "version:   '22'"
    )


def test_a_change_and_its_reversal_give_the_same_file(tmp_path: Path) -> None:
    file = stack_file(tmp_path, UNUSUAL)
    for version, sha256 in (("2", SHA256), ("1", OLD)):
        assert file.set_model("iris", name="iris", version=version, sha256=sha256)
    file.save()
    assert file.path.read_text() == UNUSUAL


@pytest.mark.parametrize(
    ("before", "version", "after"),
    [
        ("rc1", "rc2", "rc2"),
        ("rc1", "2", '"2"'),
        ("rc1", "1e3", '"1e3"'),
        ("rc1", "0x10", '"0x10"'),
        ("rc1", "true", '"true"'),
        ("'1'", "2", "'2'"),
        ('"1"', "rc1", '"rc1"'),
    ],
)
def test_a_version_is_read_back_as_text(before: str, version: str, after: str, tmp_path: Path) -> None:
    entry = "model: { name: iris, version: %s, sha256: %s }"
    file = stack_file(tmp_path, one_service(entry % (before, OLD)))
    assert file.set_model("iris", name="iris", version=version, sha256=OLD)
    file.save()
    assert file.path.read_text() == one_service(entry % (after, OLD))
    model = StackFile(tmp_path, "dev").settings().services["iris"].model
    assert model is not None
    assert model.version == version


def test_a_service_that_serves_this_version_already_is_left_alone(tmp_path: Path) -> None:
    file = stack_file(tmp_path, UNUSUAL)
    assert not file.set_model("iris", name="iris", version="1", sha256=OLD)
    file.save()
    assert file.path.read_text() == UNUSUAL


def test_settings_follow_an_edit(tmp_path: Path) -> None:
    file = stack_file(tmp_path, UNUSUAL)
    file.set_model("iris", name="wine", version="2", sha256=SHA256)
    model = file.settings().services["iris"].model
    assert model is not None
    assert (model.name, model.version, model.sha256) == ("wine", "2", SHA256)
    assert file.services_of("wine") == ["iris"]
    assert file.services_of("iris") == []


def test_an_edit_is_in_the_file_only_when_saved(tmp_path: Path) -> None:
    file = stack_file(tmp_path, UNUSUAL)
    file.set_model("iris", name="iris", version="2", sha256=SHA256)
    assert file.path.read_text() == UNUSUAL


@pytest.mark.parametrize(
    ("service", "message"),
    [
        ("rose", "service 'rose': not in Pulumi.dev.yaml; there are: app, iris"),
        ("app", "service 'app' in Pulumi.dev.yaml: runs an image, it has no model to replace"),
    ],
)
def test_a_service_that_serves_no_model_is_refused(service: str, message: str, tmp_path: Path) -> None:
    file = stack_file(tmp_path, UNUSUAL)
    with pytest.raises(OperationError, match=f"^{re.escape(message)}$"):
        file.set_model(service, name="iris", version="2", sha256=SHA256)


@pytest.mark.parametrize(
    "text",
    [
        one_service(f'<<: {{ model: {{ name: iris, version: "1", sha256: {OLD} }} }}'),
        one_service(f'model: {{ <<: {{ name: iris, version: "1" }}, sha256: {OLD} }}'),
        f"{HEAD}  model-serving:services: '{json.dumps({'iris': {'model': MODEL}})}'\n",
    ],
)
def test_a_model_that_is_not_written_out_is_not_edited(text: str, tmp_path: Path) -> None:
    file = stack_file(tmp_path, text)
    with pytest.raises(
        OperationError, match=r"^service 'iris' in Pulumi\.dev\.yaml: .* is not written out there"
    ):
        file.set_model("iris", name="iris", version="2", sha256=SHA256)
    assert file.path.read_text() == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("config: {", "not valid YAML: "),
        ("config: {}\nconfig: {}", "not valid YAML: (.|\n)*duplicate key"),
        ("\xff\xfe", "expected a mapping with the key 'config'"),
        ("", "expected a mapping with the key 'config'"),
        ("- config", "expected a mapping with the key 'config'"),
        ("config:", "expected a mapping with the key 'config'"),
        ("config: text", "expected a mapping with the key 'config'"),
        ("encryptionsalt: x", "expected a mapping with the key 'config'"),
    ],
)
def test_a_file_that_is_no_stack_file_is_refused_by_name(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(OperationError, match=rf"^Pulumi\.dev\.yaml: ({message})"):
        stack_file(tmp_path, text)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "Pulumi.dev.yaml").write_bytes(b"config: \xff")
    with pytest.raises(OperationError, match=r"^Pulumi\.dev\.yaml: not valid YAML: "):
        StackFile(tmp_path, "dev")


def test_a_stack_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    folder = tmp_path / "stacks"
    folder.mkdir()
    for name in (
        "Pulumi.local.yaml",
        "Pulumi.azure.dev.yaml",
        "Pulumi.yaml",
        ".Pulumi.local.yaml.partial",
        "notes",
    ):
        (folder / name).write_text("")
    message = r"^stack 'prod': there is no Pulumi\.prod\.yaml in stacks/; there are: azure\.dev, local$"
    with pytest.raises(OperationError, match=message):
        StackFile(folder, "prod")


def test_a_stack_file_that_is_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "Pulumi.dev.yaml").mkdir()
    with pytest.raises(OperationError, match=r"^Pulumi\.dev\.yaml: cannot be read: Is a directory$"):
        StackFile(tmp_path, "dev")


@pytest.mark.parametrize("services", ["{}", "text", "[iris]", "{ iris: }", "{ iris: { model: } }"])
def test_wrong_settings_are_told_as_such_by_every_question(services: str, tmp_path: Path) -> None:
    file = stack_file(
        tmp_path, f"{HEAD}  model-serving:services: {services}\n  model-serving:layer: cellar\n"
    )
    for question in (
        file.settings,
        lambda: file.services_of("iris"),
        lambda: file.set_model("iris", name="iris", version="1", sha256=SHA256),
    ):
        with pytest.raises(ConfigError, match="model-serving:layer"):
            question()


FACTS = {
    "kubeContext": "maas",
    "imageRegistry": "maas.local",
    "modelStore": "file:///srv/models",
    "endpointHost": "127.0.0.1",
    "images": {"serving_image": f"maas.local/serving-image@sha256:{SHA256}"},
}


@pytest.mark.parametrize("text", [(ROOT / "stacks/Pulumi.local.yaml").read_text(), UNUSUAL])
def test_a_resolved_file_has_the_facts_and_nothing_else_more(text: str, tmp_path: Path) -> None:
    file = stack_file(tmp_path, text)
    target = file.resolve(FACTS, tmp_path / "deep" / "down" / "Pulumi.dev.yaml")
    expected = yaml.safe_load(text.replace("%YAML 1.1\n", ""))
    expected["config"]["model-serving:local"] = FACTS
    assert yaml.safe_load(target.read_text()) == expected
    assert file.path.read_text() == text
    assert file.settings().local is None


def test_a_resolved_file_keeps_what_is_pulumis_own(tmp_path: Path) -> None:
    own = "encryptionsalt: v1:abc\nsecretsprovider: passphrase\n"
    file = stack_file(tmp_path, UNUSUAL.replace("config:\n", f"{own}config:\n", 1))
    resolved = yaml.safe_load(file.resolve(FACTS, tmp_path / "resolved").read_text())
    assert resolved.items() >= yaml.safe_load(own).items()


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_save_that_fails_leaves_the_old_file_and_no_other(
    fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    file = stack_file(tmp_path, UNUSUAL)
    file.set_model("iris", name="iris", version="2", sha256=SHA256)
    monkeypatch.setattr(os if fails == "fsync" else Path, fails, full)
    message = r"^.*/Pulumi\.dev\.yaml: cannot be written: No space left on device$"
    with pytest.raises(OperationError, match=message):
        file.save()
    assert file.path.read_text() == UNUSUAL
    assert list(tmp_path.iterdir()) == [file.path]


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_crash_while_saving_leaves_the_old_file(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class CrashError(BaseException):
        """Nothing runs after it that a crash would not run: no handler of the code's own."""

    def crash(*arguments: object) -> None:
        raise CrashError

    file = stack_file(tmp_path, UNUSUAL)
    file.set_model("iris", name="iris", version="2", sha256=SHA256)
    with monkeypatch.context() as patch:
        patch.setattr(os if moment == "fsync" else Path, moment, crash)
        with pytest.raises(CrashError):
            file.save()
    assert file.path.read_text() == UNUSUAL
    file.save()  # what the crash left behind is not in the way
    assert file.path.read_text() == UNUSUAL.replace(OLD, SHA256).replace("'1'", "'2'")
    assert list(tmp_path.iterdir()) == [file.path]


def test_a_file_is_written_with_the_mode_that_was_asked_for(tmp_path: Path) -> None:
    write_atomically(tmp_path / "secret", "text", mode=0o600)
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
