"""The sandbox's ports and sizes: one file, an override, one number that moves them all, errors that name the key."""

from __future__ import annotations

from configparser import ConfigParser
from pathlib import Path

import pytest
from supervisor.datatypes import dict_of_key_value_pairs

from sandbox import s3
from sandbox.airflow_database import connection_arguments
from sandbox.errors import SandboxError
from sandbox.home import Home, find_home
from sandbox.settings import Settings, load_settings
from sandbox.supervisor import Program, render


def ports(settings: Settings) -> list[int]:
    programs = ["s3", "envoy", "airflow-api-server", *(server.name for server in settings.tritons())]
    return [port for program in programs for port in settings.ports_of(program).values()]


def test_the_defaults_give_every_part_a_port_of_its_own() -> None:
    found = ports(load_settings({}))

    assert len(found) == len(set(found)) == 3 + 10 + 5 * 3


def test_one_number_moves_the_whole_block() -> None:
    moved, default = load_settings({"SANDBOX_PORT_BASE": "19000"}), load_settings({})

    assert min(ports(moved)) == 19000
    assert {a - b for a, b in zip(ports(default), ports(moved), strict=True)} == {min(ports(default)) - 19000}


def test_a_file_overrides_single_keys(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("replicas: {blue: 1, green: 1}\nports: {airflow: 8080}\n", encoding="utf-8")

    found = load_settings({"SANDBOX_SETTINGS": str(path)})

    assert [server.name for server in found.tritons()] == ["triton-blue-0", "triton-green-0", "triton-bench-0"]
    assert found.ports.airflow == 8080
    assert found.ports.router == load_settings({}).ports.router


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("replicas: {blu: 1}", "replicas.blu"),
        ("traffic: {rates_per_s: {digits_classifier: fast}}", "traffic.rates_per_s"),
        ("ports: {s3: 80}", "ports.s3"),
        ("ports: {s3: 28080}", "28080 to both"),
        ("[1, 2]", "not a mapping"),
        ("a: [", "cannot be read"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")

    with pytest.raises(SandboxError, match=named) as refused:
        load_settings({"SANDBOX_SETTINGS": str(path)})

    assert str(path) in str(refused.value)


@pytest.mark.parametrize("base", ["many", "65400", "80"])
def test_a_port_base_that_cannot_be_is_refused(base: str) -> None:
    with pytest.raises(SandboxError, match="SANDBOX_PORT_BASE"):
        load_settings({"SANDBOX_PORT_BASE": base})


def test_the_state_folder_can_be_moved(tmp_path: Path) -> None:
    assert find_home({"SANDBOX_HOME": str(tmp_path)}).folder == tmp_path
    assert find_home({}).folder.name == ".sandbox"


def test_secrets_stay_and_are_private(tmp_path: Path) -> None:
    home = Home(tmp_path)

    assert home.secret("one") == home.secret("one") != home.secret("two")
    assert (tmp_path / "secrets.json").stat().st_mode & 0o077 == 0


def test_tritons_may_only_read_the_models(tmp_path: Path) -> None:
    home = Home(tmp_path)
    s3.write_identities(home)

    text = home.s3_config.read_text(encoding="utf-8")
    assert '"Read:models"' in text
    assert s3.triton_keys(home) != s3.pipeline_keys(home)
    assert home.s3_config.stat().st_mode & 0o077 == 0


def test_supervisord_reads_back_what_was_rendered(tmp_path: Path) -> None:
    from supervisor.options import ServerOptions

    odd = {"PLAIN": "a,b=c", "PERCENT": "100%", "SPACE": "a b", "EMPTY": ""}
    home = Home(tmp_path / "with space")
    home.create()
    command = ["/bin/sh", "-c", "echo '50%'; exec \"$@\"", "x y"]
    home.supervisor_config.write_text(render(home, [Program("one", command, odd, stop_s=3)]), encoding="utf-8")

    options = ServerOptions()
    options.realize(["-c", str(home.supervisor_config)])

    [group] = options.process_group_configs
    [process] = group.process_configs
    assert {name: process.environment[name] for name in odd} == odd
    assert process.command == "/bin/sh -c 'echo '\"'\"'50%'\"'\"'; exec \"$@\"' 'x y'"
    assert (process.stopwaitsecs, process.autostart, process.stopasgroup, process.killasgroup) == (
        3,
        False,
        False,
        True,
    )


@pytest.mark.parametrize("value", [r"""a"b'c""", '"quoted"', "a\nb", "a ;b", "a #b"])
def test_a_variable_that_supervisord_cannot_read_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(SandboxError, match="ODD"):
        render(Home(tmp_path), [Program("one", ["true"], {"ODD": value})])


@pytest.mark.parametrize("value", ["plain", "it's", '[{"name": "a", "none": null}]', "50 %, of it"])
def test_supervisord_reads_the_variable_that_was_meant(tmp_path: Path, value: str) -> None:
    text = render(Home(tmp_path), [Program("one", ["true"], {"GIVEN": value, "NEXT": "1"})])
    parser = ConfigParser()
    parser.read_string(text.partition("[program:one]")[1] + text.partition("[program:one]")[2])

    assert dict_of_key_value_pairs(parser["program:one"]["environment"]) == {"GIVEN": value, "NEXT": "1"}


def test_a_connections_uri_counts_only_without_other_fields() -> None:
    uri = {"conn_id": "a", "conn_uri": "http://x"}
    fields = {"conn_id": "a", "conn_type": "http", "conn_host": "h", "conn_extra": {"k": 1}, "conn_uri": "http://x"}

    assert connection_arguments(uri) == {"conn_id": "a", "uri": "http://x"}
    assert connection_arguments(fields) == {"conn_id": "a", "conn_type": "http", "host": "h", "extra": '{"k": 1}'}
