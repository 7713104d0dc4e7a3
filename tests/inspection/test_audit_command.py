from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from rillet.__main__ import main
from rillet.audit import comparison
from rillet.audit.report import AuditReport, Offender
from rillet.devstack.process import free_port
from rillet.schemas import dump_spec
from tests.inspection.samples import SPEC

CLEAN = AuditReport(
    requests=4,
    impressions=8,
    actions=3,
    expected=8,
    found=8,
    positive=3,
    negative=5,
    duplicate_features=0,
    orphan_actions=0,
    unusable_events=0,
    lost=0,
    duplicated=0,
    unexpected=0,
    mislabelled=0,
    wrong_rate=0,
    wrong_spec=0,
    undecodable=0,
)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "shop.spec.toml").write_text(dump_spec(SPEC))
    path = tmp_path / "rillet.toml"
    path.write_text(
        """
spec = "shop.spec.toml"
[kafka]
bootstrap_servers = "127.0.0.1:1"
topics = { features = "pages", actions = "clicks", examples = "rows" }
[flink]
lateness_ms = 777
[sources.features]
format = "json"
request_id = "page"
time = "at"
items = "results"
impression_id = "film"
"""
    )
    return path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the audit was called with; ``report`` is what it finds."""
    asked: dict[str, Any] = {"report": CLEAN}

    def audit_topics(kafka: object, spec: object, **options: Any) -> tuple[AuditReport, None]:
        asked.update(options, spec=spec)
        return asked["report"], None

    monkeypatch.setattr(comparison, "audit_topics", audit_topics)
    return asked


def test_a_clean_audit_of_the_configured_topics_and_sources_is_status_0(config: Path, asked: dict[str, Any]) -> None:
    result = CliRunner().invoke(main, ["audit", "--config", str(config), "--allowed-late", "3"])
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    assert result.stdout == "audit: 8 examples expected, 8 found: all there, once, right\n"
    assert [asked[name] for name in ("features", "actions", "examples")] == ["pages", "clicks", "rows"]
    assert (asked["lateness_ms"], asked["allowed_late"], asked["sources"].features.format) == (777, 3, "json")


def test_what_is_wrong_is_told_with_how_to_close_open_windows_and_is_status_1(
    config: Path, asked: dict[str, Any], tmp_path: Path
) -> None:
    offender = Offender("lost", "r-1", 7, "watch", "0 rows")
    asked["report"] = replace(CLEAN, found=7, lost=1, offenders=(offender,))
    result = CliRunner().invoke(main, ["audit", "--config", str(config), "--json", str(tmp_path / "report.json")])
    assert result.exit_code == 1
    assert "1 lost" in result.stdout
    assert "request r-1, impression 7" in result.stdout
    assert "rillet audit --help" in result.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["ok"], report["lost"], report["offenders"][0]["request_id"]) == (False, 1, "r-1")
    assert "rillet join --until-latest --drain" in CliRunner().invoke(main, ["audit", "--help"]).output


def test_topics_without_any_event_prove_nothing(config: Path, asked: dict[str, Any]) -> None:
    asked["report"] = replace(CLEAN, requests=0, actions=0, expected=0, found=0)
    result = CliRunner().invoke(main, ["audit", "--config", str(config)])
    assert result.exit_code == 2
    assert "topics pages and clicks hold no event" in result.stderr


def test_a_report_that_cannot_be_written_is_told_before_the_topics_are_read(
    config: Path, asked: dict[str, Any]
) -> None:
    result = CliRunner().invoke(main, ["audit", "--config", str(config), "--json", str(config / "report.json")])
    assert result.exit_code == 2
    assert "report.json" in result.stderr
    assert "features" not in asked


def test_the_specs_before_are_those_of_the_configuration_and_those_named_with_the_command(
    config: Path, asked: dict[str, Any], tmp_path: Path
) -> None:
    longer, seeded = replace(SPEC, sampling_seed=5), replace(SPEC, sampling_seed=6)
    (tmp_path / "longer.toml").write_text(dump_spec(longer))
    (tmp_path / "seeded.toml").write_text(dump_spec(seeded))
    config.write_text(f'also_accepts = ["longer.toml"]\n{config.read_text()}')
    command = ["audit", "--config", str(config), "--also-accepts", str(tmp_path / "seeded.toml")]
    assert CliRunner().invoke(main, command).exit_code == 0
    assert (asked["spec"], asked["also_accepts"]) == (SPEC, (longer, seeded))


def test_rows_of_an_unknown_spec_are_one_sentence_and_no_advice_on_open_windows(
    config: Path, asked: dict[str, Any]
) -> None:
    asked["report"] = replace(CLEAN, lost=8, wrong_spec=8, unknown_specs={"0xabc": 8})
    result = CliRunner().invoke(main, ["audit", "--config", str(config)])
    assert (result.exit_code, result.stderr) == (1, "")
    assert result.stdout.count("\n") == 1
    assert "8 rows are of feature spec 0xabc" in result.stdout


@pytest.mark.integration
def test_without_a_broker_the_advice_starts_it_alone_and_the_audit_goes_on(config: Path) -> None:
    config.write_text(config.read_text().replace("127.0.0.1:1", f"127.0.0.1:{free_port()}"))

    def run(*command: str) -> Result:
        return CliRunner().invoke(main, [*command, "--config", str(config)])

    without = run("audit")
    assert without.exit_code == 2
    found = re.search(r"no Kafka broker answers at .*: start one with `rillet (.*?)`", without.stderr)
    assert found is not None, without.stderr
    try:
        advised = run(*found[1].split())
        assert advised.exit_code == 0, advised.output
        assert not list((config.parent / "var/rillet").glob("services/*.pid")), "no service runs"
        audited = run("audit")
        assert (audited.exit_code, "topics pages and clicks hold no event" in audited.stderr) == (2, True), (
            audited.output
        )
    finally:
        assert run("down").exit_code == 0
