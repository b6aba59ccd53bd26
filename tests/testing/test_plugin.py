"""The fixtures and options for pytest, each in a pytest of its own; some in a process of its own too."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

DOCUMENT = Path(__file__).parents[2] / "docs" / "testing.md"
#: The document's examples for pytest.
EXAMPLES = [
    text
    for text in re.findall(r"^```python\n(.*?)^```$", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
    if "async def test_" in text
]

TESTS = """
    import pytest, random, time, trio
    from zmdp_trio import service
    from zmdp_trio.testing import VirtualClock

    @service("echo")
    async def echo(payload):
        return payload

    async def test_cluster(zmdp_cluster, zmdp_transport, zmdp_seed):
        assert not isinstance(trio.lowlevel.current_clock(), VirtualClock)
        async with zmdp_cluster(echo, workers=2) as cluster:
            assert cluster.endpoint.startswith(zmdp_transport)
            assert cluster.settings.heartbeat == 0.5
            assert await cluster.client.request("echo", 1) == 1
        async with zmdp_cluster(heartbeat=0.25, workers=0) as cluster:
            assert cluster.settings.heartbeat == 0.25
        assert random.random() == random.Random(zmdp_seed).random()

    async def test_clock(zmdp_clock, zmdp_cluster):
        async with zmdp_cluster(echo) as cluster:
            assert cluster.settings.heartbeat == 2.5
            await trio.sleep(3600)
            assert await cluster.client.request("echo", 1) == 1
            assert zmdp_clock.current_time() == trio.current_time() == 3600

    async def test_network(zmdp_network, zmdp_cluster):
        async with zmdp_cluster(echo, workers=2) as cluster:
            assert cluster.network is zmdp_network
            cluster.kill("worker")
            assert await cluster.client.request("echo", 1, retry=1) == 1
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """Some user's project, in trio mode."""
    pytester.makepyprojecttoml('[tool.pytest.ini_options]\ntrio_mode = true\nfilterwarnings = ["error"]')
    return pytester


def test_in_memory(project: pytest.Pytester) -> None:
    project.makepyfile(TESTS)
    project.runpytest_subprocess().assert_outcomes(passed=3)


def test_over_tcp(project: pytest.Pytester) -> None:
    project.makepyfile(TESTS)
    result = project.runpytest_inprocess("--zmdp-transport=tcp", "-rs")
    result.assert_outcomes(passed=1, skipped=2)
    result.stdout.fnmatch_lines_random(
        [
            "*needs virtual time, which there is in memory only, not over tcp*",
            "*needs network faults, which there is in memory only, not over tcp*",
        ]
    )


def test_with_marks_instead_of_the_trio_mode(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TESTS.replace("    async def test_", "    @pytest.mark.trio\n    async def test_"))
    pytester.runpytest_inprocess().assert_outcomes(passed=3)


@pytest.mark.parametrize("text", EXAMPLES, ids=range(len(EXAMPLES)))
@pytest.mark.parametrize("transport", ["memory", "tcp"])
def test_the_document_s_examples(project: pytest.Pytester, transport: str, text: str) -> None:
    project.makepyfile(text)
    result = project.runpytest_inprocess(f"--zmdp-transport={transport}")
    number = text.count("async def test_")
    virtual = text.count("(zmdp_clock") if transport == "tcp" else 0
    result.assert_outcomes(passed=number - virtual, skipped=virtual)


def test_the_document_has_examples() -> None:
    assert len(EXAMPLES) == 2


def test_the_seed_is_an_option(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        async def test_seed(zmdp_clock, zmdp_seed, zmdp_cluster):
            async with zmdp_cluster(workers=0, clients=0) as cluster:
                print("EPOCH", zmdp_seed, cluster.broker._machine.epoch.hex())
        """
    )

    def epoch(*options: str) -> str:
        found = re.search(r"EPOCH (\d+ \w+)", project.runpytest_inprocess("-s", *options).stdout.str())
        assert found
        return found[1]

    default, other = epoch(), epoch("--zmdp-seed=5")
    assert default == epoch("--zmdp-seed=0")
    assert other.startswith("5 ")
    assert default[2:] != other[2:]


def test_a_project_without_trio_does_not_notice(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_nothing_was_loaded():
            assert "pytest_zmdp_trio" in sys.modules
            assert not {"trio", "zmq", "zmdp_trio"} & set(sys.modules)
        """
    )
    pytester.runpytest_subprocess("-p", "no:trio", "-p", "no:anyio", "-p", "no:hypothesispytest").assert_outcomes(
        passed=1
    )


def test_the_plugin_s_module_imports_nothing_of_ours() -> None:
    code = "import pytest_zmdp_trio, sys; print({'trio', 'zmq', 'zmdp_trio'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
