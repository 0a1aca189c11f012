"""``DockerHost`` and ``TLS``: urls, certificates and limits that make no sense are refused when they are made."""

from __future__ import annotations

import pytest

from jobmanager import TLS, DockerHost
from jobmanager.control.settings import default_host
from jobmanager.errors import InvalidHost

GOOD_URLS = [
    "unix:///var/run/docker.sock",
    "tcp://host:2376",
    "tcp://[::1]:2376",
    "ssh://host",
    "ssh://user@host:2222/run/user/1000/docker.sock",
    "fake:///tmp/engine.sock",
]

BAD_URLS = [
    ("", "makes no sense"),
    ("docker", "makes no sense"),
    ("/var/run/docker.sock", "makes no sense"),
    ("http://host:2375", "makes no sense"),
    ("npipe:////./pipe/docker_engine", "makes no sense"),
    ("unix://", "needs the absolute path of a socket"),
    ("unix:relative", "needs the absolute path of a socket"),
    ("unix:///", "needs the absolute path of a socket"),
    ("unix://var/run/docker.sock", "needs the absolute path of a socket"),
    ("tcp://", "names no host"),
    ("tcp://:2375", "names no host"),
    ("tcp://host", "names no port"),
    ("tcp://host:0x1", "tcp://host:0x1"),
    ("tcp://host:99999", "tcp://host:99999"),
    ("tcp://[::1:2375", "tcp://[::1:2375"),
    ("ssh://", "names no host"),
    ("ssh://user@", "names no host"),
    ("ssh://-oProxyCommand=x", "cannot begin with '-'"),
    ("ssh://u@-oProxyCommand=x", "cannot begin with '-'"),
    (None, "must be a string such as"),
    (5, "must be a string such as"),
    (b"unix:///x", "must be a string such as"),
]

BAD_OPTIONS = [
    ({"max_concurrent_jobs": 0}, "max_concurrent_jobs must be a whole number above zero"),
    ({"max_concurrent_jobs": -1}, "max_concurrent_jobs must be a whole number above zero"),
    ({"max_concurrent_jobs": 1.5}, "max_concurrent_jobs must be a whole number above zero"),
    ({"max_concurrent_jobs": True}, "max_concurrent_jobs must be a whole number above zero"),
    ({"waiters": 0}, "waiters must be a whole number above zero"),
    ({"waiters": None}, "waiters must be a whole number above zero"),
    ({"waiters": 65}, "waiters must be at most 64, not 65"),
    ({"address": ""}, "address must be a machine's name or IP address"),
    ({"address": "-oProxyCommand=x"}, "address must be"),
    ({"address": "user@host"}, "address must be"),
    ({"address": 5}, "address must be"),
    ({"pull": "always"}, "pull must be one of"),
    ({"pull": True}, "pull must be one of"),
    ({"pull": None}, "pull must be one of"),
    ({"name": 5}, "name must be a string"),
    ({"name": 0}, "name must be a string"),
    ({"name": None}, "name must be a string"),
    ({"name": "a\0b"}, "name holds a NUL"),
]


@pytest.mark.parametrize("url", GOOD_URLS)
def test_a_url_of_each_kind_is_taken_and_is_the_name_unless_one_is_given(url):
    assert DockerHost(url).name == url
    assert DockerHost(url, name="one").name == "one"


@pytest.mark.parametrize(("url", "says"), BAD_URLS)
def test_a_url_that_makes_no_sense_is_refused(url, says):
    with pytest.raises(InvalidHost) as refused:
        DockerHost(url)

    assert says in str(refused.value)


@pytest.mark.parametrize(("options", "says"), BAD_OPTIONS, ids=repr)
def test_options_that_make_no_sense_are_refused(options, says):
    with pytest.raises(InvalidHost, match=says):
        DockerHost("unix:///x", **options)


@pytest.fixture
def certificates(tmp_path):
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (tmp_path / name).write_text("PEM")
    return tmp_path


def test_a_folder_of_certificates_is_read_by_dockers_names(certificates):
    tls = DockerHost("tcp://host:2376", tls=certificates).tls

    assert tls == DockerHost("tcp://host:2376", tls=str(certificates)).tls == TLS.folder(certificates)
    assert (tls.ca_cert, tls.client_cert, tls.client_key, tls.verify) == (
        str(certificates / "ca.pem"), str(certificates / "cert.pem"), str(certificates / "key.pem"), True,
    )  # fmt: skip


@pytest.mark.parametrize("missing", ["ca.pem", "cert.pem", "key.pem"])
def test_a_certificate_that_is_missing_is_named(certificates, missing):
    (certificates / missing).unlink()

    with pytest.raises(InvalidHost, match=f"no file that can be read at '.*{missing}'"):
        DockerHost("tcp://host:2376", tls=certificates)


def test_a_client_certificate_needs_its_key(certificates):
    for half in ({"client_cert": certificates / "cert.pem"}, {"client_key": certificates / "key.pem"}):
        with pytest.raises(InvalidHost, match="client_cert and client_key go together"):
            TLS(**half)


def test_certificates_of_a_wrong_type_are_refused():
    for wrong in (5, b"/tmp", ["a"]):
        with pytest.raises(InvalidHost, match="ca_cert"):
            TLS(ca_cert=wrong)
    with pytest.raises(InvalidHost, match="tls must be a TLS or a folder of certificates, not 5"):
        DockerHost("tcp://host:2376", tls=5)


def test_tls_is_for_tcp_and_ssh_config_is_for_ssh(certificates):
    with pytest.raises(InvalidHost, match="tls is for tcp urls"):
        DockerHost("unix:///x", tls=certificates)
    with pytest.raises(InvalidHost, match="ssh_config is for ssh urls"):
        DockerHost("unix:///x", ssh_config=certificates / "ca.pem")
    with pytest.raises(InvalidHost, match="ssh_config: no file that can be read"):
        DockerHost("ssh://host", ssh_config=certificates / "nowhere")
    with pytest.raises(InvalidHost, match="ssh_config"):
        DockerHost("ssh://host", ssh_config=5)
    assert DockerHost("ssh://host", ssh_config=certificates / "ca.pem").ssh_config == str(certificates / "ca.pem")


@pytest.mark.parametrize(
    ("host", "address", "only_here"),
    [
        (DockerHost("unix:///s"), "127.0.0.1", True),
        (DockerHost("unix:///s", address="grader.example.org"), "grader.example.org", False),
        (DockerHost("tcp://grader.example.org:2376"), "grader.example.org", False),
        (DockerHost("tcp://127.0.0.1:2376"), "127.0.0.1", True),
        (DockerHost("tcp://localhost:2376"), "localhost", True),
        (DockerHost("tcp://[2001:db8::1]:2376"), "2001:db8::1", False),
        (DockerHost("ssh://me@grader.example.org:22/run/docker.sock"), "grader.example.org", False),
        (DockerHost("ssh://alias", address="192.0.2.7"), "192.0.2.7", False),
    ],
    ids=lambda value: value.url if isinstance(value, DockerHost) else "",
)
def test_a_published_port_is_reached_at_the_urls_host_or_at_the_address_given(host, address, only_here):
    assert (host.published_at, host.is_published_here_only) == (address, only_here)


def test_no_host_is_the_one_that_dockers_own_variables_name(monkeypatch, certificates):
    for name in ("DOCKER_HOST", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"):
        monkeypatch.delenv(name, raising=False)
    assert default_host() == DockerHost("unix:///var/run/docker.sock")

    monkeypatch.setenv("DOCKER_HOST", "unix:///run/other.sock")
    assert default_host() == DockerHost("unix:///run/other.sock")

    monkeypatch.setenv("DOCKER_HOST", "tcp://host:2376")
    assert default_host().tls is None

    monkeypatch.setenv("DOCKER_CERT_PATH", str(certificates))
    assert default_host().tls == TLS.folder(certificates, verify=False)

    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    assert default_host().tls == TLS.folder(certificates)

    monkeypatch.setenv("DOCKER_HOST", "nonsense")
    with pytest.raises(InvalidHost, match="nonsense"):
        default_host()
