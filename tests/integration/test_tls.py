"""A Docker host over TCP with TLS: a real daemon that asks for a client's certificate."""

from __future__ import annotations

import gc
import io
import subprocess
import tarfile
from collections.abc import Iterator
from concurrent.futures import wait
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from jobmanager import TLS, ClientSync, DockerHost, JobInput, JobManager, Limits, Outcome, Task
from jobmanager.cli import run as run_command
from jobmanager.control.standalone_engine import open_engine
from jobmanager.errors import EngineUnavailable, InvalidHost
from tests.conftest import BUSYBOX, eventually, our_containers, our_volumes
from tests.support.daemons import Certificates, PrivateDaemon, make_certificates
from tests.support.runner_volumes import make_find_and_remove

pytestmark = [pytest.mark.engine, pytest.mark.daemon]

MIB = 1024 * 1024
START_S = 5.0  # a refusal has to come well before the 10 s for which start() waits for any host's first word


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def daemon(certificates: Certificates, image_tar: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateDaemon]:
    with PrivateDaemon(tmp_path_factory.mktemp("daemon"), tls=certificates) as daemon:
        daemon.load_image(Path(image_tar))
        yield daemon


@pytest.fixture
def tls(certificates: Certificates) -> TLS:
    return TLS(ca_cert=certificates.ca, client_cert=certificates.client_cert, client_key=certificates.client_key)


@pytest.fixture(autouse=True)
def host_is_clean_afterwards(daemon: PrivateDaemon) -> Iterator[None]:
    yield
    eventually(lambda: not our_containers(daemon.url) and not our_volumes(daemon.url), what="containers and volumes are gone")


def complaint(host: DockerHost) -> str:
    """What start() says of a host that it cannot use."""
    manager = JobManager(host)
    began = datetime.now(timezone.utc)
    with pytest.raises(EngineUnavailable) as raised:
        manager.start()
    took_s = (datetime.now(timezone.utc) - began).total_seconds()
    assert took_s < START_S, f"{took_s:g} s"
    said = str(raised.value)
    assert "\n" not in said and host.url in said
    return said


# ---- jobs


def test_the_volume_with_the_runner_is_made_and_read_back(daemon: PrivateDaemon, tls: TLS) -> None:
    with open_engine(DockerHost(daemon.tls_url, name="over tls", tls=tls), timeout_s=20.0) as engine:
        make_find_and_remove(engine)


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_a_job_s_input_and_both_outputs_come_through(daemon: PrivateDaemon, tls: TLS, name: str) -> None:
    host = DockerHost(daemon.tls_url.replace("127.0.0.1", name), name="over tls", tls=tls)
    task = Task(BUSYBOX, command="cat; cat given.txt >&2; exit 3", files={"given.txt": b"\x00\xff\x1e"})

    with JobManager(host) as manager:
        result = ClientSync(manager).new_job(task, JobInput(stdin=bytes(range(256))))

    assert (result.outcome, result.exit_code, result.host) == (Outcome.FAILED, 3, "over tls")
    assert (result.stdout, result.stderr) == (bytes(range(256)), b"\x00\xff\x1e")


def test_big_files_and_big_output_come_through_whole(daemon: PrivateDaemon, tls: TLS) -> None:
    content = bytes(range(256)) * 4096 * 24  # 24 MiB: more than any socket's buffer
    limits = Limits(workspace_mib=128, output_kib=16 * 1024, archive_mib=32, memory_mib=512)
    task = Task(
        BUSYBOX,
        command="md5sum < big && head -c 8388608 big && cp big back",
        files={"big": content},
        collect=["back"],
        limits=limits,
    )

    with JobManager(DockerHost(daemon.tls_url, tls=tls)) as manager:
        result = ClientSync(manager).new_job(task, None)

    assert (result.outcome, result.text) == (Outcome.SUCCESS, "")
    assert result.stdout.partition(b"\n")[2] == content[: 8 * MIB]
    assert result.archive is not None
    with tarfile.open(fileobj=io.BytesIO(result.archive)) as archive:
        assert archive.extractfile("back").read() == content  # type: ignore[union-attr]


def test_a_program_that_is_silent_for_long_is_still_heard(daemon: PrivateDaemon, tls: TLS) -> None:
    """Its reader's timeouts (a TLS socket's among them) end nothing."""
    task = Task(BUSYBOX, command="echo first; sleep 3; echo last")

    with JobManager(DockerHost(daemon.tls_url, tls=tls)) as manager:
        result = ClientSync(manager).new_job(task, None)

    assert (result.outcome, result.stdout) == (Outcome.SUCCESS, b"first\nlast\n")


def test_a_job_is_killed_and_keeps_what_it_printed(daemon: PrivateDaemon, tls: TLS) -> None:
    with JobManager(DockerHost(daemon.tls_url, tls=tls)) as manager:
        future = manager.submit(Task(BUSYBOX, command="echo begun; sleep 300"))
        eventually(lambda: (info := manager.get_job_queue_info(future.job_id)) is not None and info.jobs_before == -1)
        eventually(lambda: our_containers(daemon.url))

        assert manager.kill_job(future.job_id)
        result = future.result(15)

    assert result.outcome is Outcome.KILLED


def test_limits_hold(daemon: PrivateDaemon, tls: TLS) -> None:
    with JobManager(DockerHost(daemon.tls_url, tls=tls)) as manager:
        wall = manager.submit(Task(BUSYBOX, command="echo a; sleep 300", limits=Limits(wall_time_s=1)))
        output = manager.submit(Task(BUSYBOX, command="yes", limits=Limits(output_kib=64)))

        assert (wall.result(20).outcome, wall.result().stdout) == (Outcome.TIMEOUT, b"a\n")
        assert output.result(20).outcome is Outcome.OVERFLOW


def test_many_jobs_at_once_each_get_their_own_output(daemon: PrivateDaemon, tls: TLS) -> None:
    with JobManager(DockerHost(daemon.tls_url, tls=tls, max_concurrent_jobs=6)) as manager:
        futures = [manager.submit(Task(BUSYBOX, command=f"cat; echo {number}"), JobInput(stdin=b"job ")) for number in range(18)]
        wait(futures, timeout=60)

    assert [future.result(0).stdout for future in futures] == [b"job %d\n" % number for number in range(18)]


def test_the_host_s_own_authority_counts_whatever_the_environment_says(
    daemon: PrivateDaemon, tls: TLS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """requests lets REQUESTS_CA_BUNDLE and the proxy variables overrule a session, unless told not to."""
    others = make_certificates(tmp_path / "others")
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.setenv(name, str(others.ca))
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)

    with JobManager(DockerHost(daemon.tls_url, tls=tls)) as manager:
        assert ClientSync(manager).new_job(Task(BUSYBOX, command="true"), None).outcome is Outcome.SUCCESS


def test_the_sdk_s_variables_name_a_host_with_tls(
    daemon: PrivateDaemon, certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for source, name in [(certificates.ca, "ca"), (certificates.client_cert, "cert"), (certificates.client_key, "key")]:
        (tmp_path / f"{name}.pem").write_bytes(source.read_bytes())
    monkeypatch.setenv("DOCKER_HOST", daemon.tls_url)
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))

    with JobManager() as manager:
        assert ClientSync(manager).new_job(Task(BUSYBOX, command="true"), None).host == daemon.tls_url


def test_a_host_whose_certificate_nobody_vouches_for_is_used_when_told_to(
    daemon: PrivateDaemon, certificates: Certificates
) -> None:
    trusting = TLS(client_cert=certificates.client_cert, client_key=certificates.client_key, verify=False)

    with JobManager(DockerHost(daemon.tls_url, tls=trusting)) as manager:
        assert ClientSync(manager).new_job(Task(BUSYBOX, command="true"), None).outcome is Outcome.SUCCESS


# ---- what is wrong is said at once


@pytest.mark.case(17)
def test_a_wrong_authority_is_told(daemon: PrivateDaemon, certificates: Certificates, tmp_path: Path) -> None:
    others = make_certificates(tmp_path)
    tls = TLS(ca_cert=others.ca, client_cert=certificates.client_cert, client_key=certificates.client_key)

    assert "certificate verify failed" in complaint(DockerHost(daemon.tls_url, tls=tls))


def test_a_client_s_certificate_that_the_daemon_does_not_know_is_told(
    daemon: PrivateDaemon, certificates: Certificates, tmp_path: Path
) -> None:
    others = make_certificates(tmp_path)
    tls = TLS(ca_cert=certificates.ca, client_cert=others.client_cert, client_key=others.client_key)

    assert "certificate" in complaint(DockerHost(daemon.tls_url, tls=tls))


def test_a_client_without_a_certificate_is_told(daemon: PrivateDaemon, certificates: Certificates) -> None:
    assert "certificate" in complaint(DockerHost(daemon.tls_url, tls=TLS(ca_cert=certificates.ca)))


@pytest.mark.case(17)
def test_a_client_s_expired_certificate_is_told(daemon: PrivateDaemon, certificates: Certificates, tmp_path: Path) -> None:
    expired = signed_anew(certificates.client_key, certificates, tmp_path / "expired.pem", "extendedKeyUsage=clientAuth")
    tls = TLS(ca_cert=certificates.ca, client_cert=expired, client_key=certificates.client_key)

    assert "certificate" in complaint(DockerHost(daemon.tls_url, tls=tls))


@pytest.mark.case(17)
def test_a_daemon_s_expired_certificate_is_told(certificates: Certificates, tls: TLS, tmp_path: Path) -> None:
    extensions = "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth"
    expired = signed_anew(certificates.server_key, certificates, tmp_path / "expired.pem", extensions)
    theirs = Certificates(
        ca=certificates.ca,
        server_cert=expired,
        server_key=certificates.server_key,
        client_cert=certificates.client_cert,
        client_key=certificates.client_key,
    )

    with PrivateDaemon(tmp_path / "daemon", tls=theirs) as daemon:
        assert "certificate has expired" in complaint(DockerHost(daemon.tls_url, tls=tls))


def test_a_daemon_s_certificate_for_another_name_is_told(daemon: PrivateDaemon, tls: TLS) -> None:
    said = complaint(DockerHost(daemon.tls_url.replace("127.0.0.1", "127.0.0.2"), tls=tls))

    assert "127.0.0.2" in said


def test_plain_tcp_to_a_tls_port_is_told(daemon: PrivateDaemon) -> None:
    assert "HTTPS" in complaint(DockerHost(daemon.tls_url))


def test_a_port_where_nobody_listens_is_told(tls: TLS) -> None:
    assert "refused" in complaint(DockerHost("tcp://127.0.0.1:1", tls=tls))


@pytest.mark.case(17)
def test_a_host_with_bad_certificates_holds_up_no_job_of_the_other(
    daemon: PrivateDaemon, certificates: Certificates, tmp_path: Path
) -> None:
    others = make_certificates(tmp_path)
    wrong = TLS(ca_cert=others.ca, client_cert=others.client_cert, client_key=others.client_key)
    hosts = [DockerHost(daemon.tls_url, name="wrong", tls=wrong), DockerHost(daemon.url, name="right")]

    with JobManager(hosts) as manager:
        result = ClientSync(manager).new_job(Task(BUSYBOX, command="true"), None, timeout_s=20)
        records = {record.name: record for record in manager.hosts()}

    assert (result.outcome, result.host) == (Outcome.SUCCESS, "right")
    assert not records["wrong"].up and "certificate verify failed" in records["wrong"].reason


@pytest.mark.parametrize("missing", ["ca_cert", "client_cert", "client_key"])
def test_a_certificate_s_missing_file_is_refused_when_the_host_is_made(certificates: Certificates, missing: str) -> None:
    files = {"ca_cert": certificates.ca, "client_cert": certificates.client_cert, "client_key": certificates.client_key}

    with pytest.raises(InvalidHost, match=f"{missing}.*/no/such.pem"):
        TLS(**files | {missing: Path("/no/such.pem")})


def test_a_folder_without_certificates_is_refused_when_the_host_is_made(tmp_path: Path) -> None:
    with pytest.raises(InvalidHost, match=r"ca\.pem"):
        DockerHost("tcp://127.0.0.1:2376", tls=tmp_path)


def test_a_certificate_without_its_key_is_refused(certificates: Certificates) -> None:
    with pytest.raises(InvalidHost, match="client_key"):
        TLS(ca_cert=certificates.ca, client_cert=certificates.client_cert)


def test_a_file_that_is_no_certificate_is_told(daemon: PrivateDaemon, certificates: Certificates, tmp_path: Path) -> None:
    garbage = tmp_path / "ca.pem"
    garbage.write_text("this is no certificate\n")
    tls = TLS(ca_cert=garbage, client_cert=certificates.client_cert, client_key=certificates.client_key)

    assert "no certificate" in complaint(DockerHost(daemon.tls_url, tls=tls))


def signed_anew(key: Path, certificates: Certificates, certificate: Path, extensions: str) -> Path:
    """A certificate for a key, signed by the same authority, that expired yesterday."""
    request, options = certificate.with_suffix(".csr"), certificate.with_suffix(".ext")
    options.write_text(f"{extensions}\n")
    folder = certificate.parent
    for name, content in {"index.txt": "", "index.txt.attr": "", "serial": "01\n"}.items():
        (folder / name).write_text(content)
    config = folder / "ca.cnf"
    config.write_text(
        f"[ca]\ndefault_ca=own\n[own]\ndatabase={folder}/index.txt\nserial={folder}/serial\nnew_certs_dir={folder}\n"
        "default_md=sha256\npolicy=any\n[any]\ncommonName=supplied\n"
    )
    day = timedelta(days=1)
    now = datetime.now(timezone.utc)
    dates = [(now - 2 * day).strftime("%Y%m%d%H%M%SZ"), (now - day).strftime("%Y%m%d%H%M%SZ")]
    openssl("req", "-new", "-key", str(key), "-subj", "/CN=expired", "-out", str(request))
    openssl(
        *("ca", "-batch", "-notext", "-config", str(config), "-extfile", str(options)),
        *("-startdate", dates[0], "-enddate", dates[1]),
        *("-cert", str(certificates.ca), "-keyfile", str(certificates.ca.with_name("ca-key.pem"))),
        *("-in", str(request), "-out", str(certificate)),
    )
    return certificate


def openssl(*arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


# ---- the command line


def test_the_command_line_shows_certificates_and_tells_of_wrong_ones(
    daemon: PrivateDaemon, certificates: Certificates, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = ["sweep", daemon.tls_url, "--tls", str(certificates.ca.parent)]
    assert run_command([*sweep, "--yes"]) == 0  # the runner's volume, which a later manager would use again
    assert run_command(sweep) == 0
    assert "nothing to sweep" in capsys.readouterr().out

    make_certificates(tmp_path / "others")
    assert run_command(["sweep", daemon.tls_url, "--tls", str(tmp_path / "others")]) == 3
    gc.collect()  # urllib3's exceptions refer to each other, with the socket that failed to connect
    said = capsys.readouterr().err
    assert "certificate verify failed" in said and said.count("\n") == 1
